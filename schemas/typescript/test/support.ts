// What several tests need: addresses, bounded waits, and a stand-in for the worker.

import assert from "node:assert/strict";
import type { ChildProcess } from "node:child_process";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { setTimeout as pause } from "node:timers/promises";

import amqp from "amqplib";
import type { Channel, ChannelModel, ConsumeMessage } from "amqplib";

/** Longest wait of a test, also on a machine that is busy with others. */
export const PATIENCE_MS = 30_000;

/** Return a URL that the run gives.
 *
 * `WORKER` has a worker and a reader, `PRODUCER` is the same with a producer's rights alone, and `BARE` is an empty
 * virtual host. */
export function url(name: "WORKER" | "PRODUCER" | "BARE"): string {
  const found = process.env[`BILLING_TEST_${name}_URL`];
  assert.ok(found, `run by tests/typescript, which sets BILLING_TEST_${name}_URL`);
  return found;
}

/** Return the files of a certificate that the run gives, and of its CA. */
export function certificate(name: "localhost" | "app"): Record<"ca" | "cert" | "key", string> {
  const folder = process.env["BILLING_TEST_CERTIFICATES"];
  assert.ok(folder, "run by tests/typescript, which sets BILLING_TEST_CERTIFICATES");
  return { ca: `${folder}/ca.pem`, cert: `${folder}/${name}.pem`, key: `${folder}/${name}.key` };
}

/** Return the first value of `condition` that is not undefined or false. */
export async function eventually<T>(condition: () => T | undefined | false): Promise<T> {
  const deadline = performance.now() + PATIENCE_MS;
  for (;;) {
    const value = condition();
    if (value !== undefined && value !== false) return value;
    assert.ok(performance.now() < deadline, `not within ${PATIENCE_MS} ms: ${condition}`);
    await pause(5);
  }
}

/** Return when a child process has written something; fail where it ends before. */
export async function firstOutput(child: ChildProcess): Promise<void> {
  assert.ok(child.stdout);
  const ended = once(child, "exit").then(([code]) => assert.fail(`the child process ended with ${code}`));
  await Promise.race([once(child.stdout, "data"), ended]);
}

const QUEUES = [
  ["billing.usage", "usage.*"],
  ["billing.payments", "payment.*"],
  ["billing.queries", "query.*"],
] as const;

/** Stand-in for worker and reader: a test takes the messages and answers them, when it wants. */
export class StandIn {
  readonly messages: ConsumeMessage[] = [];
  readonly #seen = new Set<string>();
  /** Apply what comes at once. */
  appliesAll = false;

  private constructor(
    readonly model: ChannelModel,
    readonly channel: Channel,
  ) {}

  /** Declare what the client relies on, all but the bulk lane, and consume it. */
  static async start(broker: string): Promise<StandIn> {
    const model = await amqp.connect(broker, { noDelay: true });
    const standIn = new StandIn(model, await model.createChannel());
    const { channel } = standIn;
    for (const exchange of ["billing", "billing.events"]) await channel.assertExchange(exchange, "topic");
    for (const [queue, key] of QUEUES) {
      await channel.assertQueue(queue);
      await channel.bindQueue(queue, "billing", key);
      await channel.purgeQueue(queue);
      await channel.consume(queue, (message) => message && standIn.take(message), { noAck: true });
    }
    await channel.assertQueue("billing.replies");
    await channel.purgeQueue("billing.replies");
    return standIn;
  }

  /** Forget what came before: a message of an earlier test may still have been on its way. */
  async reset(): Promise<void> {
    this.appliesAll = false;
    const messageId = randomUUID();
    for (const [queue] of QUEUES) this.channel.sendToQueue(queue, Buffer.from(queue), { messageId });
    await eventually(() => QUEUES.every(([queue]) => this.#seen.has(`${messageId} ${queue}`)));
    this.messages.length = 0;
  }

  take(message: ConsumeMessage): void {
    this.#seen.add(`${message.properties.messageId} ${message.fields.routingKey}`);
    if (this.appliesAll) this.apply(message);
    else this.messages.push(message);
  }

  /** Return the message that comes next. */
  async next(): Promise<ConsumeMessage> {
    return eventually(() => this.messages.shift());
  }

  /** Reply to a message, as text or as an object. */
  reply(message: ConsumeMessage, body: object | string): void {
    const text = typeof body === "string" ? body : JSON.stringify(body);
    const { replyTo, correlationId } = message.properties as { replyTo: string; correlationId: string };
    this.channel.sendToQueue(replyTo, Buffer.from(text), { correlationId });
  }

  /** Apply a command; one that was published has no address for a reply. */
  apply(message: ConsumeMessage): void {
    if (message.properties.replyTo === undefined) return;
    this.reply(message, {
      ...bodyOf(message),
      status: "applied",
      code: "tokens_deducted",
      message: "",
      duplicate: false,
    });
  }

  async close(): Promise<void> {
    await this.model.close();
  }
}

export function bodyOf(
  message: ConsumeMessage,
): { type: string; referenceId: string } & Record<string, unknown> {
  return JSON.parse(message.content.toString()) as ReturnType<typeof bodyOf>;
}
