// Partitions of the broker's queues: the routing key of a command, and its parts where it is a batch of many users.

import { createHash } from "node:crypto";

import { BillingConfiguration } from "./errors.js";
import type { Command, Reply } from "./generated/contract.js";

type Batch = Extract<Command, { type: "usage.batch" }>;

const SLOTS = 64;
const PARTITIONS = [0, 8, 16, 32, 64];
const REFERENCE_MAX = 200;

/** A command, or items of a batch as a batch of its own, with their places in the whole. */
export interface Part {
  readonly command: Command;
  readonly places: readonly number[];
}

/** Return a number of partitions, 0 for none; throw for one that would not serve whole slots. */
export function requirePartitions(partitions: number): number {
  if (PARTITIONS.includes(partitions)) return partitions;
  throw new BillingConfiguration(
    `partitions: ${partitions} is no number of partitions: use 8, 16, 32 or 64, or 0 where queues have none`,
  );
}

/** Return the slot of a user, from 0 to 63: the first six bits of SHA-256 over the NFC form of the id. */
export function slotOf(userId: string): number {
  return createHash("sha256").update(userId.normalize("NFC"), "utf8").digest().readUInt8(0) >> 2;
}

/** Return the routing key of a command: its type, and the partition of its user where it has one. */
export function routingKey(command: Command, partitions: number): string {
  if (partitions === 0) return command.type;
  const own = new Set(usersOf(command).map((userId) => partitionOf(userId, partitions)));
  const [partition] = own;
  if (own.size !== 1 || partition === undefined) return command.type;
  return `${command.type}.${digits(partition)}`;
}

/** Return the parts of a batch by partition, in order; a command that is of one partition is its own only part.
 *
 * The reference of a part is that of the whole with the partition behind it: the same batch has the same parts again.
 * A batch whose reference has no room for that is not split; the worker applies it all the same. */
export function partsOf(command: Command, partitions: number): Part[] {
  const users = usersOf(command);
  const whole = [{ command, places: [...users.keys()] }];
  if (command.type !== "usage.batch" || partitions === 0) return whole;
  if ([...command.referenceId].length + ":00".length > REFERENCE_MAX) return whole;
  const byPartition = new Map<number, number[]>();
  for (const [place, userId] of users.entries()) {
    const partition = partitionOf(userId, partitions) ?? 0; // an item without a user is refused in any
    byPartition.set(partition, [...(byPartition.get(partition) ?? []), place]);
  }
  if (byPartition.size <= 1) return whole;
  const inOrder = [...byPartition].sort(([one], [other]) => one - other);
  return inOrder.map(([partition, places]) => ({ command: partOf(command, partition, places), places }));
}

function partOf(batch: Batch, partition: number, places: readonly number[]): Batch {
  const items = batch.items.filter((_, place) => places.includes(place)) as Batch["items"];
  return { ...batch, referenceId: `${batch.referenceId}:${digits(partition)}`, items };
}

/** Return the one reply to a command: to a batch in parts the replies to its items in order, and how many they are.
 *
 * A part that failed as a whole fails for each of its items; where all did, the first reply is returned. */
export function joined(command: Command, parts: readonly Part[], replies: readonly Reply[]): Reply {
  const [first] = replies as [Reply];
  if (parts.length === 1 || command.type !== "usage.batch") return first;
  const { type, referenceId, userId } = command;
  if (replies.every((reply) => !reply.items)) return { ...first, referenceId };
  const items: Reply[] = [];
  parts.forEach((part, n) => {
    const ofPart = itemsOf(command, part, replies[n] as Reply);
    part.places.forEach((place, index) => (items[place] = ofPart[index] as Reply));
  });
  const count = (status: Reply["status"]): number => items.filter((item) => item.status === status).length;
  const [applied, failed] = [count("applied"), count("failed")];
  const rejected = items.length - applied - failed;
  const text = `Processed ${items.length} items: ${applied} applied, ${rejected} rejected`;
  return {
    schemaVersion: first.schemaVersion,
    status: "applied",
    code: "batch_processed",
    message: failed > 0 ? `${text}, ${failed} failed` : text,
    type,
    referenceId,
    ...(userId ? { userId } : {}),
    duplicate: replies.every((reply) => reply.duplicate),
    applied,
    rejected,
    failed,
    items,
  };
}

/** Return the replies to the items of a part. */
function itemsOf(batch: Batch, part: Part, reply: Reply): readonly Reply[] {
  if (reply.items) return reply.items;
  return part.places.map((place) => {
    const item = batch.items[place] as Batch["items"][number];
    const userId = item.userId ?? batch.userId;
    return { ...reply, type: item.type, referenceId: item.referenceId, ...(userId ? { userId } : {}) };
  });
}

/** Return the user of a command, or of each item of a batch. */
function usersOf(command: Command): (string | null | undefined)[] {
  if (command.type !== "usage.batch") return [command.userId];
  return command.items.map((item) => item.userId ?? command.userId);
}

function partitionOf(userId: string | null | undefined, partitions: number): number | undefined {
  return userId ? Math.floor((slotOf(userId) * partitions) / SLOTS) : undefined;
}

function digits(partition: number): string {
  return String(partition).padStart(2, "0");
}
