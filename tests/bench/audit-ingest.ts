/**
 * The audit path by itself: how many events the store takes, and how many come all the way from the spools of nodes
 * through the queue into PostgreSQL. An event is an exchange, of which a node writes two records.
 */
import { randomInt } from 'node:crypto';
import { join } from 'node:path';
import { type Database, EpochService, IngestService } from '@sallyport/control-plane/audit';
import { AuditShipper, AuditSpool, type BatchSigner } from '@sallyport/data-plane/telemetry';
import { type AuditBatch, auditQueue, type OpenedRecord } from '@sallyport/schema';
import {
  createLog,
  createQueues,
  type QueueBackend,
  type QueueProducer,
  systemClock,
} from '@sallyport/schema/platform';
import { closedRecord, eventId, nodeSigner, openedRecord } from '../audit/records.ts';
import { waitFor } from '../kit/condition.ts';
import { startControlProcess } from './control-process.ts';
import type { Figures, Target } from './figures.ts';
import { processorSeconds } from './process-figures.ts';

const nodeCount = 4;
/** Appended at once on each node, and how many of its records may be unconfirmed before it waits. */
const appendedAtOnce = 100;
const unconfirmedMax = 20_000;
const watermarkMs = 50;
/** Of each node, in the store: as many as a worker takes of each of four nodes. */
const batchesInHand = 4;
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

  /** Writes so many exchanges, no faster than they are confirmed. @param open how many are under way at a time */
  async write(events: number, open: number): Promise<void> {
    const underWay: OpenedRecord[] = [];
    for (let written = 0; written < events; written += appendedAtOnce) {
      while (this.shipper.recordsUnconfirmed > unconfirmedMax) await pause();
      const appended: Promise<void>[] = [];
      for (let at = 0; at < Math.min(appendedAtOnce, events - written); at++) {
        const opened = openedRecord(eventId(), aCall());
        underWay.push(opened);
        appended.push(this.spool.append(opened), ...this.#close(underWay.splice(0, underWay.length - open)));
      }
      await Promise.all(appended);
    }
    await Promise.all(this.#close(underWay));
  }

  #close(all: readonly OpenedRecord[]): Promise<void>[] {
    return all.map((opened) => this.spool.append(closedRecord(opened)));
  }

  async stop(): Promise<void> {
    await this.spool.close();
    await this.shipper.stop();
  }
}

/** Who calls what: one of 20,000 principals, of 50 tools of 2,000 servers, of which few are called much. */
function aCall(): Partial<OpenedRecord> {
  const server = Math.floor(2_000 * (randomInt(1_000) / 1_000) ** 3);
  return {
    principal: { ...caller, id: idOf(randomInt(20_000)) },
    server: { id: idOf(server), slug: `server-${server}` },
    target: { kind: 'tool', name: `tool_${randomInt(50)}` },
  };
}

const caller = { kind: 'user', name: 'Person', keyId: 'key', clientId: null, tokenId: null } as const;

/** As long as real ones. */
function idOf(number: number): string {
  return `00000000-0000-7000-8000-${String(number).padStart(12, '0')}`;
}

const pause = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 5));

/** Batches as nodes would ship them, without a queue. */
async function makeBatches(directory: string, events: number, open: number): Promise<AuditBatch[][]> {
  return Promise.all(
    Array.from({ length: nodeCount }, async (_, at) => {
      const batches: AuditBatch[] = [];
      const node: AuditNode = new AuditNode(join(directory, `made-${at}`), nodeSigner(), {
        add: (_jobId, data, lines) => {
          const batch = { ...data, lines: lines?.toString('utf8').split('\n') } as AuditBatch;
          batches.push(batch);
          setImmediate(() =>
            node.shipper.onWatermark([{ epoch: batch.epoch, sequence: batch.last, ended: batch.epochEnded }]),
          );
          return Promise.resolve();
        },
        close: () => Promise.resolve(),
      });
      await node.write(Math.ceil(events / nodeCount), open);
      await waitFor('the spool is shipped', () => node.shipper.recordsUnconfirmed === 0, { deadlineMs: settleMs });
      await node.stop();
      return batches;
    }),
  );
}

/** Processes by what they are called in figures. */
type Pids = Readonly<Record<string, number>>;

/** Runs the work for so many events, and tells how many that were in a second and whose processor time each took. */
async function measure(
  what: { readonly name: string; readonly events: number; readonly pids: Pids; readonly target?: Target },
  figures: Figures,
  work: () => Promise<void>,
): Promise<void> {
  const pids = Object.entries(what.pids);
  const before = pids.map(([, pid]) => ownSeconds(pid));
  const began = performance.now();
  await work();
  const seconds = (performance.now() - began) / 1000;
  figures.add(what.name, what.events / seconds, 'events/s', what.target);
  for (const [at, [name, pid]] of pids.entries()) {
    const spent = ownSeconds(pid) - (before[at] ?? 0);
    figures.add(`  processor time of ${name}`, (spent * 1e6) / what.events, 'µs/event');
  }
}

/** What the store takes of batches that are there already, from as many nodes at once. */
export async function addInsertFigures(
  database: Database,
  directory: string,
  { events, open, pids }: { readonly events: number; readonly open: number; readonly pids: Pids },
  figures: Figures,
): Promise<void> {
  const batches = await makeBatches(directory, events, open);
  const alarms: string[] = [];
  const ingest = new IngestService({
    database,
    keys: { accepts: () => Promise.resolve(true), maySucceed: () => Promise.resolve(false) },
    log,
    onAlarm: (code, _nodeId, message) => void alarms.push(`${code}: ${message}`),
    onKeyUsed: () => undefined,
  });
  const name = open === 0 ? 'insert alone' : `insert alone, ${open} exchanges of each node under way`;
  await measure({ name, events, pids: { 'who checks and inserts': process.pid, ...pids } }, figures, async () => {
    await Promise.all(
      batches.map(async (ofNode) => {
        for (let at = 0; at < ofNode.length; at += batchesInHand)
          await Promise.all(ofNode.slice(at, at + batchesInHand).map((batch) => ingest.ingest(batch)));
      }),
    );
  });
  if (alarms.length > 0) throw new Error(alarms[0]);
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
  /** Beside the nodes and the worker. */
  readonly pids: Pids;
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
  const pids = { 'the nodes and their queue clients': process.pid, 'the worker': worker.pid, ...path.pids };
  await measure({ ...path, name: `whole path, ${path.name}`, pids }, figures, async () => {
    await Promise.all(nodes.map((node) => node.write(Math.ceil(path.events / nodeCount), 0)));
    const isHome = (): boolean => nodes.every(({ shipper }) => shipper.recordsUnconfirmed === 0);
    await waitFor('every record is confirmed', isHome, { deadlineMs: settleMs });
  });
  clearInterval(watermarks);
  for (const node of nodes) await node.stop();
  await worker.end('SIGTERM');
}

/** Of this process without its children: they are counted by themselves. */
function ownSeconds(pid: number): number {
  if (pid !== process.pid) return processorSeconds(pid);
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
}
