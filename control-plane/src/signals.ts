/**
 * What tells subscriptions to read again. A signal carries nothing, so a lost or doubled one harms nobody; it reaches
 * every control-plane process through PostgreSQL, also the one that sent it.
 */
import { setMaxListeners } from 'node:events';
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

/** Topics of one process alone, with what they carry. `auditEventAdded` is fed only while somebody listens. */
export type LocalTopics = { auditEventAdded: [object] };
type Topic = SignalTopic | keyof LocalTopics;

export type Signals = ReturnType<typeof createSignals>;

/** The hub of one process: type-graphql's `topics` subscribe to it, `connectSignals` feeds it. */
export function createSignals() {
  const eventTarget = new EventTarget();
  // One for each open subscription: their number is limited by sockets, and many are no leak.
  setMaxListeners(0, eventTarget);
  const hub = createPubSub<Record<SignalTopic, [null]> & LocalTopics>({ eventTarget });
  const counts = new Map<Topic, number>();
  const count = (topic: Topic, change: number): void => void counts.set(topic, (counts.get(topic) ?? 0) + change);
  return {
    publish: <Name extends Topic>(topic: Name, payload: (Record<SignalTopic, [null]> & LocalTopics)[Name][0]): void => {
      (hub.publish as (topic: Topic, payload: object | null) => void)(topic, payload);
    },
    subscribe: (topic: Topic): AsyncIterableIterator<unknown> => {
      count(topic, 1);
      return endingWith(hub.subscribe(topic), () => count(topic, -1));
    },
    /** How many subscribe to the topic here. */
    subscribers: (topic: Topic): number => counts.get(topic) ?? 0,
  };
}

/** The same iteration, with `onEnd` run once when it is given up. */
function endingWith(source: AsyncIterable<unknown>, onEnd: () => void): AsyncIterableIterator<unknown> {
  const inner = source[Symbol.asyncIterator]();
  let ended = false;
  const end = (): void => {
    if (!ended) onEnd();
    ended = true;
  };
  const iterator: AsyncIterableIterator<unknown> = {
    [Symbol.asyncIterator]: () => iterator,
    next: async () => {
      const result = await inner.next();
      if (result.done === true) end();
      return result;
    },
    return: async () => {
      end();
      return (await inner.return?.()) ?? { done: true, value: undefined };
    },
  };
  return iterator;
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
