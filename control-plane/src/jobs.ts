import { auditQueue, metricsQueue, payloadQueue } from '@sallyport/schema';
import type { Clock, Log, Queues } from '@sallyport/schema/platform';
import { IngestService } from './audit/ingest.service.ts';
import { PartitionService } from './audit/partition.service.ts';
import { TrafficIngestService } from './audit/traffic-ingest.service.ts';
import { PayloadIngestService } from './capture/payload-ingest.service.ts';
import type { Database } from './database/client.ts';
import { forgetIdempotencyKeys } from './database/idempotency.ts';
import { forgetLogins } from './identity/idp/federated-login.service.ts';
import { forgetUnusedClients } from './oauth/client.service.ts';
import { forgetConsents } from './oauth/consent.service.ts';
import { forgetLoginCodes } from './oauth/login-code.service.ts';
import { forgetOAuthObjects } from './oauth/object-store.service.ts';
import { forgetRevokedFamilies } from './oauth/token-family.service.ts';
import type { ControlPlaneMetrics } from './metrics.ts';
import type { Services } from './services.ts';

const housekeepingIntervalMs = 10 * 60_000;
/** How long an event of the control plane waits for its place in the chain. */
const chainIntervalMs = 5_000;
/** How soon audit events are sent to webhooks. */
const deliveryIntervalMs = 1_000;
const checkpointIntervalMs = 60_000;
const revocationIntervalMs = 5_000;
/** How soon a new key-encryption key wraps what older ones did. */
const rewrapIntervalMs = 60_000;
const upstreamKeysIntervalMs = 60_000;
const partitionIntervalMs = 3_600_000;
/** Audit batches in hand at once in one process: those that continue each other are stored together. */
const auditBatchesConcurrent = 16;
const payloadBatchesConcurrent = 4;
const metricsWindowsConcurrent = 2;
/** How long a payload is kept past its retention at most. */
const payloadIntervalMs = 10 * 60_000;

export interface JobsOptions {
  readonly database: Database;
  readonly services: Pick<
    Services,
    | 'auditDelivery'
    | 'checkpoints'
    | 'keyUses'
    | 'nodeKeys'
    | 'onAlarm'
    | 'rewrapping'
    | 'revocations'
    | 'connections'
    | 'upstreamKeys'
    | 'loginTokens'
    | 'payloadKeys'
    | 'payloadStore'
  >;
  readonly queues: Queues;
  readonly metrics: Pick<ControlPlaneMetrics, 'batchStored'>;
  readonly clock: Clock;
  readonly log: Log;
}

export interface Jobs {
  /** Lets what runs end, then starts nothing more. */
  stop(): Promise<void>;
}

interface Timer {
  stop(): Promise<void>;
}

/**
 * Runs a reconciler now and again after each interval, never twice at once. A run that fails is logged and tried again
 * at the next interval: reconcilers read the state anew and can be repeated.
 */
function every(name: string, intervalMs: number, log: Log, run: () => Promise<void>): Timer {
  let running: Promise<void> | undefined;
  const tick = (): void => {
    running ??= run()
      .catch((error: unknown) => log.error({ err: error, job: name }, 'a job failed'))
      .finally(() => {
        running = undefined;
      });
  };
  const timer = setInterval(tick, intervalMs);
  tick();
  return {
    stop: async () => {
      clearInterval(timer);
      await running;
    },
  };
}

/** What the `worker` role does: takes in what nodes ship, and keeps the audit trail and the database in order. */
export function startJobs(options: JobsOptions): Jobs {
  const { database, services, queues, metrics, clock, log } = options;
  const { checkpoints, keyUses, nodeKeys, onAlarm } = services;
  // A node's clock may be ahead; nothing was used in the future.
  const onKeyUsed = (keyId: string, atMs: number): void => keyUses.note(keyId, Math.min(atMs, clock.now()));
  const partitions = new PartitionService({ database, clock, log });
  const onStored = (records: number, oldestMs: number | null): void =>
    metrics.batchStored(records, oldestMs === null ? 0 : clock.now() - oldestMs);
  const ingest = new IngestService({ database, keys: nodeKeys, log, onAlarm, onStored, onKeyUsed });
  const captured = new PayloadIngestService({ database, keys: nodeKeys, onAlarm, now: () => clock.now(), log });
  const traffic = new TrafficIngestService({ database, keys: nodeKeys, log });
  const consumers = [
    queues.consumer(auditQueue, { concurrency: auditBatchesConcurrent, handle: (data) => ingest.ingest(data) }),
    queues.consumer(payloadQueue, { concurrency: payloadBatchesConcurrent, handle: (data) => captured.ingest(data) }),
    queues.consumer(metricsQueue, { concurrency: metricsWindowsConcurrent, handle: (data) => traffic.ingest(data) }),
  ];
  const timers = [
    every('revocations', revocationIntervalMs, log, () => services.revocations.run()),
    every('rewrap', rewrapIntervalMs, log, async () => void (await services.rewrapping.run())),
    every('upstream signing keys', upstreamKeysIntervalMs, log, () => services.upstreamKeys.advance()),
    every('payloads', payloadIntervalMs, log, async () => {
      await services.payloadStore.expire();
      await services.payloadKeys.rotate();
    }),
    every('audit delivery', deliveryIntervalMs, log, () => services.auditDelivery.run()),
    every('partitions', partitionIntervalMs, log, () => partitions.maintain()),
    every('audit chain', chainIntervalMs, log, async () => void (await checkpoints.chainControlEvents())),
    every('checkpoint', checkpointIntervalMs, log, async () => void (await checkpoints.checkpoint())),
    every('housekeeping', housekeepingIntervalMs, log, async () => {
      await forgetIdempotencyKeys(database.db, clock.now());
      await services.connections.forgetAttempts();
      await services.loginTokens.forget();
      await forgetRevokedFamilies(database.db, clock.now());
      await forgetOAuthObjects(database.db, clock.now());
      await forgetUnusedClients(database.db, clock.now());
      await forgetConsents(database.db, clock.now());
      await forgetLoginCodes(database.db, clock.now());
      await forgetLogins(database.db, clock.now());
    }),
  ];
  return {
    stop: async () => {
      // A batch in work is finished first.
      await Promise.all(consumers.map((consumer) => consumer.close()));
      await Promise.all(timers.map((timer) => timer.stop()));
    },
  };
}
