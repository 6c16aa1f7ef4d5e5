"""Who stops before whom."""

from common_telemetry import TelemetryConfig, TelemetryContext
from echo_core.runtime.order import upstream_first
from echo_core.runtime.slot import PluginSlot
from runtime.hosting import manifest

TELEMETRY = TelemetryContext.from_config(TelemetryConfig(engine="off"), environ={})


def slot(name: str, hears: tuple[str, ...] = (), says: tuple[str, ...] = ()) -> PluginSlot:
    return PluginSlot(
        name=name,
        build_type="",
        manifest=manifest(name, hears=hears, says=says),
        telemetry=TELEMETRY.for_plugin(name, "1"),
        report=lambda event: None,
    )


def order(*slots: PluginSlot) -> list[str]:
    return [each.name for each in upstream_first(slots)]


def test_publishers_come_before_their_subscribers_also_through_patterns() -> None:
    last, first, middle = slot("last", ("b.*",)), slot("first", (), ("a",)), slot("middle", ("#",), ("b.x",))
    assert order(last, first, middle) == ["first", "middle", "last"]


def test_a_cycle_is_broken_at_its_first_member_and_what_follows_it_comes_after() -> None:
    after = slot("after", ("out",))
    one, two = slot("one", ("b",), ("a", "out")), slot("two", ("a",), ("b",))
    result = order(after, one, two)
    assert sorted(result) == ["after", "one", "two"]
    assert result.index("after") > result.index("one")


def test_plugins_that_do_not_meet_stay_as_they_came() -> None:
    assert order(slot("z"), slot("a"), slot("m")) == ["z", "a", "m"]


def test_a_plugin_that_hears_itself_is_no_obstacle() -> None:
    assert order(slot("echo", ("#",), ("#",))) == ["echo"]
