// Requests one after the other: a deduct by the worker and an echo through the same kind of queue, in turn.
//
// node build/benchmark/sequential.js URL REQUESTS WARM_UP, with a worker and the account `user-000000`; prints
// the latencies in milliseconds as JSON.

import { fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";

import amqp from "amqplib";

import { BillingClient } from "@billing-worker/client";
import type { Command } from "@billing-worker/client";

const ECHO = "bench.echo";
const USER = "user-000000";
const REPLY = Buffer.from(
  JSON.stringify({ status: "applied", code: "tokens_deducted", message: "", duplicate: false }),
);

const [url = "", requests = "0", warmUp = "0", role] = process.argv.slice(2);
await (role === "echo" ? echo() : measure(Number(requests), Number(warmUp)));

/** Reply to each message, then acknowledge it: a worker without a ledger, in a process of its own. */
async function echo(): Promise<void> {
  const model = await amqp.connect(url, { noDelay: true });
  const channel = await model.createConfirmChannel();
  await channel.assertQueue(ECHO, { arguments: { "x-queue-type": "quorum" } });
  await channel.bindQueue(ECHO, "billing", ECHO);
  await channel.consume(ECHO, (message) => {
    if (message === null) return;
    const { replyTo, correlationId } = message.properties as { replyTo: string; correlationId: string };
    channel.sendToQueue(replyTo, REPLY, { correlationId, persistent: true }, () => channel.ack(message));
  });
  process.send?.("ready");
  process.once("message", () => void model.close().then(() => process.disconnect()));
}

async function measure(requests: number, warmUp: number): Promise<void> {
  const server = fork(fileURLToPath(import.meta.url), [url, "0", "0", "echo"]);
  await once(server, "message");
  const client = new BillingClient({ url });
  const found: { deduct: number[]; echo: number[] } = { deduct: [], echo: [] };
  for (let number = -warmUp; number < requests; number += 1) {
    const command = { referenceId: `seq-${number}`, userId: USER, tokens: 1, feature: "bench" };
    const deduct = await timed(client, { type: "usage.deduct", ...command });
    const echoed = await timed(client, { type: ECHO, ...command } as unknown as Command);
    if (number < 0) continue;
    found.deduct.push(deduct);
    found.echo.push(echoed);
  }
  await client.close();
  server.send("stop");
  await once(server, "exit");
  process.stdout.write(JSON.stringify(found));
}

async function timed(client: BillingClient, command: Command): Promise<number> {
  const start = performance.now();
  const { status, message } = await client.request(command);
  if (status !== "applied") throw new Error(message);
  return performance.now() - start;
}
