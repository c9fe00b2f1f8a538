/**
 * The audit path by itself: how many events the store takes, and how many come all the way from the spools of nodes
 * through the queue into PostgreSQL. An event is an exchange, of which a node writes two records.
 */
import { join } from 'node:path';
import { type Database, EpochService, IngestService } from '@sallyport/control-plane/audit';
import { AuditShipper, AuditSpool, type BatchSigner } from '@sallyport/data-plane/telemetry';
import { type AuditBatch, auditQueue } from '@sallyport/schema';
import {
  createLog,
  createQueues,
  type QueueBackend,
  type QueueProducer,
  systemClock,
} from '@sallyport/schema/platform';
import { closedRecord, nodeSigner, openedRecord } from '../audit/records.ts';
import { waitFor } from '../kit/condition.ts';
import { startControlProcess } from './control-process.ts';
import type { Figures, Target } from './figures.ts';
import { processorSeconds } from './process-figures.ts';

const nodeCount = 4;
/** Appended at once on each node, and how many of its records may be unconfirmed before it waits. */
const appendedAtOnce = 100;
const unconfirmedMax = 20_000;
const watermarkMs = 50;
const spoolBytesMax = 1024 ** 3;
const settleMs = 300_000;
const log = createLog({ name: 'audit-bench', level: 'error' });

/** A node as far as its audit trail goes. */
class AuditNode {
  readonly signer: BatchSigner;
  readonly spool: AuditSpool;
  readonly shipper: AuditShipper;

  constructor(directory: string, signer: BatchSigner, queue: QueueProducer) {
    this.signer = signer;
    this.spool = AuditSpool.open({
      directory,
      nodeId: signer.nodeId,
      build: 'bench',
      auditSpoolBytesMax: spoolBytesMax,
      clock: systemClock,
      now: () => systemClock.now(),
      log,
      onAlarm: (code, message) => log.error({ code }, message),
    });
    this.shipper = new AuditShipper({ spool: this.spool, queue, signer: () => signer, clock: systemClock, log });
    this.shipper.start();
  }

  /** Writes so many exchanges, no faster than they are confirmed. */
  async write(events: number): Promise<void> {
    for (let written = 0; written < events; written += appendedAtOnce) {
      while (this.shipper.recordsUnconfirmed > unconfirmedMax) await pause();
      const appended: Promise<void>[] = [];
      for (let at = 0; at < Math.min(appendedAtOnce, events - written); at++) {
        const opened = openedRecord();
        appended.push(this.spool.append(opened), this.spool.append(closedRecord(opened)));
      }
      await Promise.all(appended);
    }
  }

  async stop(): Promise<void> {
    await this.spool.close();
    await this.shipper.stop();
  }
}

const pause = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 5));

/** Batches as nodes would ship them, without a queue. */
async function makeBatches(directory: string, events: number): Promise<AuditBatch[][]> {
  return Promise.all(
    Array.from({ length: nodeCount }, async (_, at) => {
      const batches: AuditBatch[] = [];
      const node: AuditNode = new AuditNode(join(directory, `made-${at}`), nodeSigner(), {
        add: (_jobId, data) => {
          const batch = data as AuditBatch;
          batches.push(batch);
          setImmediate(() =>
            node.shipper.onWatermark([{ epoch: batch.epoch, sequence: batch.last, ended: batch.epochEnded }]),
          );
          return Promise.resolve();
        },
        close: () => Promise.resolve(),
      });
      await node.write(Math.ceil(events / nodeCount));
      await waitFor('the spool is shipped', () => node.shipper.recordsUnconfirmed === 0, { deadlineMs: settleMs });
      await node.stop();
      return batches;
    }),
  );
}

/** What the store takes of batches that are there already, from as many nodes at once. */
export async function addInsertFigures(
  database: Database,
  directory: string,
  events: number,
  figures: Figures,
): Promise<void> {
  const batches = await makeBatches(directory, events);
  const alarms: string[] = [];
  const ingest = new IngestService({
    database,
    keys: { accepts: () => Promise.resolve(true), maySucceed: () => Promise.resolve(false) },
    log,
    onAlarm: (code, _nodeId, message) => void alarms.push(`${code}: ${message}`),
    onKeyUsed: () => undefined,
  });
  const began = performance.now();
  await Promise.all(
    batches.map(async (ofNode) => {
      for (const batch of ofNode) await ingest.ingest(batch);
    }),
  );
  if (alarms.length > 0) throw new Error(alarms[0]);
  figures.add('insert alone', (events * 1000) / (performance.now() - began), 'events/s');
}

async function register({ raw }: Database, { nodeId, publicKey }: BatchSigner): Promise<void> {
  await raw`insert into nodes (id, name, build) values (${nodeId}, 'audit-bench', 'bench')`;
  await raw`
    insert into node_keys (public_key, node_id, created_at, expires_at)
    values (${publicKey}, ${nodeId}, now(), now() + interval '1 day')`;
}

export interface WholePath {
  readonly name: string;
  readonly backend: QueueBackend;
  readonly databaseUrl: string;
  readonly secretKey: string;
  readonly postgresPid: number;
  readonly events: number;
  readonly target: Target;
}

/** From the first record in a spool until the last one is confirmed; and whose processor time it took. */
export async function addWholePathFigures(
  path: WholePath,
  database: Database,
  directory: string,
  figures: Figures,
): Promise<void> {
  const redis = 'redisUrl' in path.backend ? { REDIS_URL: path.backend.redisUrl } : {};
  const worker = await startControlProcess({
    SALLYPORT_ROLES: 'worker',
    DATABASE_URL: path.databaseUrl,
    SALLYPORT_SECRET_KEY: path.secretKey,
    ...redis,
  });
  const nodes: AuditNode[] = [];
  const queues = createQueues(path.backend, { log });
  for (let at = 0; at < nodeCount; at++) {
    const signer = nodeSigner();
    await register(database, signer);
    nodes.push(new AuditNode(join(directory, `${path.name}-${at}`), signer, queues.producer(auditQueue)));
  }
  const epochs = new EpochService({ database, log, onAlarm: () => undefined });
  const watermarks = setInterval(() => {
    for (const { signer, shipper } of nodes) {
      void epochs.watermarksOf(signer.nodeId).then((found) => shipper.onWatermark(found));
    }
  }, watermarkMs);
  const pids = { node: process.pid, worker: worker.pid, PostgreSQL: path.postgresPid };
  const spent = (): number[] => Object.values(pids).map((pid) => ownSeconds(pid, process.pid));
  const before = spent();
  const began = performance.now();
  await Promise.all(nodes.map((node) => node.write(Math.ceil(path.events / nodeCount))));
  const isHome = (): boolean => nodes.every(({ shipper }) => shipper.recordsUnconfirmed === 0);
  await waitFor('every record is confirmed', isHome, { deadlineMs: settleMs });
  const seconds = (performance.now() - began) / 1000;
  const after = spent();
  figures.add(`whole path, ${path.name}`, path.events / seconds, 'events/s', path.target);
  Object.keys(pids).forEach((name, at) => {
    const share = ((after[at] ?? 0) - (before[at] ?? 0)) / seconds;
    figures.add(`  cores that ${name === 'node' ? 'the nodes and their queue clients' : name} used`, share, 'cores');
  });
  clearInterval(watermarks);
  for (const node of nodes) await node.stop();
  await worker.end('SIGTERM');
}

/** Of this process without its children: they are counted by themselves. */
function ownSeconds(pid: number, self: number): number {
  if (pid !== self) return processorSeconds(pid);
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
}
