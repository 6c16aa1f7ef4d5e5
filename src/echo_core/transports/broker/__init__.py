"""What all transports over a broker share: accounting, back pressure, recovery, and what is settled when.

A broker keeps the messages of each subscription in a queue of its own, under the subscription's name; hosts
that subscribe with the same name share it. This package holds everything that does not depend on which
broker it is; a transport adds how that broker is spoken to (the methods of `BrokerTransport` that are
abstract).

Publications are pipelined. `publish` returns when the broker has accepted the message, except inside the
handling of another: there it returns when the message is on its way, and it is the settling of the delivery
in hand that waits for the broker. So many are in flight at a time, and still nothing is settled before
what was made from it has been accepted. What the broker does not accept is sent again until it does.

`transport` is what a broker's own transport is made of, `subscription` the part of a queue that this process
holds, `delivery` and `publication` what comes and goes, `recovery` trying again and what is said about it.
"""
