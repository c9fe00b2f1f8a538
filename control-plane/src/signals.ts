/**
 * What tells subscriptions to read again. A signal carries nothing, so a lost or doubled one harms nobody; it reaches
 * every control-plane process through PostgreSQL, also the one that sent it.
 */
import { createPubSub } from '@graphql-yoga/subscription';
import { sql } from 'drizzle-orm';
import type { Database, Reader } from './database/client.ts';

/** `nodes`: a node's state or applied revision changed. `auditEvents`: events were stored. And so on. */
export const signalTopics = ['nodes', 'auditEvents', 'serverHealth', 'traffic'] as const;
export type SignalTopic = (typeof signalTopics)[number];

const signalChannel = 'sallyport_signal';

/** Sends the signal with the caller's transaction, or at once outside of one. */
export async function sendSignal(reader: Reader, topic: SignalTopic): Promise<void> {
  await reader.execute(sql`select pg_notify(${signalChannel}, ${topic})`);
}

export type Signals = ReturnType<typeof createSignals>;

/** The hub of one process: type-graphql's `topics` subscribe to it, `connectSignals` feeds it. */
export function createSignals() {
  return createPubSub<Record<SignalTopic, [null]>>();
}

/** Feeds the hub from the database; after a reconnection every topic is signalled, as anything may have been missed. */
export async function connectSignals(database: Pick<Database, 'raw'>, signals: Signals): Promise<() => Promise<void>> {
  const all = (): void => signalTopics.forEach((topic) => signals.publish(topic, null));
  const subscription = await database.raw.listen(
    signalChannel,
    (payload) => signalTopics.filter((topic) => topic === payload).forEach((topic) => signals.publish(topic, null)),
    all,
  );
  return () => subscription.unlisten();
}
