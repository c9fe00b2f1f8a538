import { setTimeout as delay } from 'node:timers/promises';
import type { Clock, Log } from '@sallyport/schema/platform';
import type { Signals } from '../signals.ts';
import { type EventQueryService, TailPosition } from './event-query.service.ts';

/** Signals that come closer together are one read. */
const coalesceMs = 200;

export interface Tail {
  stop(): Promise<void>;
}

/** Reads new events once for all subscribers of this process, and not at all while there is none. */
export function startTail(options: {
  readonly events: EventQueryService;
  readonly signals: Signals;
  readonly clock: Clock;
  readonly log: Log;
}): Tail {
  const { events, signals, clock, log } = options;
  const iterator = signals.subscribe('auditEvents');
  const follow = async (): Promise<void> => {
    let position: TailPosition | undefined;
    for await (const _ of iterator) {
      if (signals.subscribers('auditEventAdded') === 0) {
        position = undefined;
        continue;
      }
      await delay(coalesceMs);
      try {
        position ??= new TailPosition(new Date(clock.now() - coalesceMs));
        for (const row of await events.tail(position)) signals.publish('auditEventAdded', row);
      } catch (error) {
        log.warn({ err: error }, 'the audit tail could not be read');
      }
    }
  };
  const following = follow();
  return {
    stop: async () => {
      await iterator.return?.();
      await following;
    },
  };
}
