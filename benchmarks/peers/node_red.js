// Node-RED, embedded and without its editor: three function nodes in a row. Driven by node_red.py.
//
// Arguments: the folder of the package node-red, a file with the messages as JSON, how many to send.
// Prints one line of JSON: count, checksum, seconds, cpu_seconds, versions.
"use strict";
const fs = require("fs");
const http = require("http");
const os = require("os");
const path = require("path");
const zlib = require("zlib");

const [, , packageFolder, messagesFile, countText] = process.argv;
const RED = require(packageFolder);
const messages = JSON.parse(fs.readFileSync(messagesFile, "utf8"));
const count = Number(countText);
// As many may be under way as in the queues of the other peers together.
const UNDER_WAY = 3000;

const VALIDATE = `
const data = msg.payload;
if (typeof data.text !== "string" || !data.text.trim()) throw new Error("text is empty");
if (!(0 <= data.start && data.start < data.end)) throw new Error("start must lie before end");
if (!(0 <= data.confidence && data.confidence <= 1)) throw new Error("confidence is no share");
if (data.language.length !== 2) throw new Error("language is no two-letter code");
return msg;`;
const TRANSFORM = `
const data = msg.payload;
const text = data.text.trim().split(/\\s+/).join(" ");
msg.payload = {
    text: text[0].toUpperCase() + text.slice(1),
    start_ms: Math.round(data.start * 1000),
    end_ms: Math.round(data.end * 1000),
    speaker: data.speaker,
};
return msg;`;
const SINK = `global.get("tally").add(msg.payload);`;

const tally = {
    count: 0,
    checksum: 0,
    finished: null,
    add(caption) {
        this.count += 1;
        this.checksum += (zlib.crc32(caption.text) ^ caption.start_ms ^ caption.end_ms) >>> 0;
        if (this.count === count) this.finished();
    },
};

function functionNode(id, func, next) {
    const wires = next ? [[next]] : [];
    return { id, type: "function", z: "flow", name: id, func, outputs: wires.length, wires, x: 0, y: 0 };
}

async function main() {
    const userDir = fs.mkdtempSync(path.join(os.tmpdir(), "node-red-"));
    process.on("exit", () => fs.rmSync(userDir, { recursive: true, force: true }));
    const flow = [
        { id: "flow", type: "tab", label: "captions" },
        functionNode("validate", VALIDATE, "transform"),
        functionNode("transform", TRANSFORM, "sink"),
        functionNode("sink", SINK, null),
    ];
    fs.writeFileSync(path.join(userDir, "flows.json"), JSON.stringify(flow));
    RED.init(http.createServer(), {
        userDir,
        flowFile: "flows.json",
        httpAdminRoot: false,
        httpNodeRoot: false,
        functionGlobalContext: { tally },
        logging: { console: { level: "off" } },
        telemetry: { enabled: false },
    });
    const started = new Promise((resolve) => RED.events.once("flows:started", resolve));
    await RED.start();
    await started;
    const first = RED.nodes.getNode("validate");
    const finished = new Promise((resolve) => (tally.finished = resolve));
    const turn = () => new Promise((resolve) => setImmediate(resolve));

    const cpuBegan = process.cpuUsage();
    const began = process.hrtime.bigint();
    for (let number = 0; number < count; number++) {
        while (number - tally.count >= UNDER_WAY) await turn();
        first.receive({ payload: messages[number % messages.length] });
    }
    await finished;
    const seconds = Number(process.hrtime.bigint() - began) / 1e9;
    const cpu = process.cpuUsage(cpuBegan);

    const versions = { "node-red": RED.version(), node: process.versions.node };
    const result = { count: tally.count, checksum: tally.checksum, seconds, versions };
    result.cpu_seconds = (cpu.user + cpu.system) / 1e6;
    console.log(JSON.stringify(result));
    process.exit(0);
}

main().catch((error) => {
    console.error(error);
    process.exit(1);
});
