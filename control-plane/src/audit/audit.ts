import { auditQueue, metricsQueue } from '@sallyport/schema';
import type { Clock, Log, Queues } from '@sallyport/schema/platform';
import type { Database } from '../database/client.ts';
import { type AuditSigner, CheckpointService } from './checkpoint.service.ts';
import { EpochService } from './epoch.service.ts';
import { EventQueryService } from './event-query.service.ts';
import { ExportService } from './export.service.ts';
import { type AuditAlarm, IngestService, type NodeKeys } from './ingest.service.ts';
import { PartitionService } from './partition.service.ts';
import { TrafficIngestService } from './traffic-ingest.service.ts';
import { TrafficQueryService } from './traffic-query.service.ts';

export const chainIntervalMs = 5_000;
export const checkpointIntervalMs = 60_000;
export const partitionIntervalMs = 3_600_000;
/** Batches in work at once in one process; those of one spool epoch wait for each other anyway. */
const batchesConcurrent = 4;
const windowsConcurrent = 2;

export interface AuditOptions {
  readonly database: Database;
  readonly clock: Clock;
  readonly log: Log;
}

export type AuditServices = ReturnType<typeof createAuditReaders>;

/** What the API needs of the audit trail. */
export function createAuditReaders(options: AuditOptions & { readonly signer: AuditSigner }) {
  const { database, clock } = options;
  const checkpoints = new CheckpointService(database, options.signer, clock);
  return {
    events: new EventQueryService(database),
    traffic: new TrafficQueryService(database),
    exports: new ExportService(database, checkpoints),
    checkpoints,
  };
}

export interface AuditWorkerOptions extends AuditOptions {
  readonly queues: Queues;
  readonly keys: NodeKeys;
  readonly onAlarm: (code: AuditAlarm, nodeId: string, message: string) => void;
}

/** Takes what nodes ship from the queues until stopped; a batch in work is finished first. */
export function startAuditConsumers(options: AuditWorkerOptions): { stop(): Promise<void> } {
  const { database, queues, keys, log, onAlarm } = options;
  const ingest = new IngestService({ database, keys, log, onAlarm });
  const traffic = new TrafficIngestService({ database, keys, log });
  const consumers = [
    queues.consumer(auditQueue, { concurrency: batchesConcurrent, handle: (data) => ingest.ingest(data) }),
    queues.consumer(metricsQueue, { concurrency: windowsConcurrent, handle: (data) => traffic.ingest(data) }),
  ];
  return {
    stop: async () => {
      await Promise.all(consumers.map((consumer) => consumer.close()));
    },
  };
}

export { EpochService, PartitionService };
