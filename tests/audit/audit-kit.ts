import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  type AuditAlarm,
  type Database,
  EpochService,
  IngestService,
  openDatabase,
} from '@sallyport/control-plane/audit';
import { AuditShipper, AuditSpool, type AuditSpoolOptions, type BatchSigner } from '@sallyport/data-plane/telemetry';
import {
  type AuditBatch,
  auditQueue,
  type AuditRecord,
  type BatchContent,
  batchSigningText,
  chainText,
  epochSeed,
  type PayloadRecord,
} from '@sallyport/schema';
import {
  createLog,
  createQueues,
  prepareQueueDatabase,
  type QueueBackend,
  type Queues,
  systemClock,
  uuidv7,
} from '@sallyport/schema/platform';
import { createMigratedDatabase } from '../kit/postgres.ts';
import { nodeSigner } from './records.ts';

export const log = createLog({ name: 'tests', level: 'silent' });

export { closedRecord, eventId, nodeSigner, openedRecord, refusedRecord } from './records.ts';

/** A chain as a node writes it, without a node. */
export class Chain {
  readonly signer: BatchSigner;
  readonly epoch = uuidv7(systemClock.now());
  readonly lines: string[] = [];
  readonly #content: BatchContent;
  #previous: string;

  constructor(signer: BatchSigner = nodeSigner(), content: BatchContent = 'auditBatch') {
    this.signer = signer;
    this.#content = content;
    this.#previous = epochSeed(signer.nodeId, this.epoch);
  }

  add(...records: (AuditRecord | PayloadRecord)[]): this {
    for (const record of records) {
      const { line, hash } = chainText(this.lines.length + 1, this.#previous, JSON.stringify(record));
      this.#previous = hash;
      this.lines.push(line);
    }
    return this;
  }

  /** A signed batch of the lines `first`…`last`. */
  batch(first = 1, last: number = this.lines.length, more: Partial<AuditBatch> = {}): AuditBatch {
    const unsigned = {
      nodeId: this.signer.nodeId,
      epoch: this.epoch,
      first,
      last,
      undeliverableFrom: first,
      lines: this.lines.slice(first - 1, last),
      epochEnded: false,
      signedBy: this.signer.nodeId,
      publicKey: this.signer.publicKey,
      ...more,
    };
    return { ...unsigned, signature: this.signer.sign(batchSigningText(unsigned, this.#content)) };
  }
}

export interface Store {
  readonly database: Database;
  readonly url: string;
  readonly ingest: IngestService;
  readonly epochs: EpochService;
  readonly alarms: { readonly code: AuditAlarm; readonly nodeId: string; readonly message: string }[];
  /** Keys that count as registered; all while empty. */
  readonly keys: Set<string>;
  /** Nodes that are there beside all others, and so are nobody's successor. */
  readonly contemporaries: Set<string>;
  stop(): Promise<void>;
}

/** The storing half of the audit path over a database of its own. */
export async function startStore(): Promise<Store> {
  const { url, drop } = await createMigratedDatabase();
  const database = openDatabase({ url, connectionsMax: 6 });
  const alarms: Store['alarms'] = [];
  const keys = new Set<string>();
  const contemporaries = new Set<string>();
  const onAlarm = (code: AuditAlarm, nodeId: string, message: string): void =>
    void alarms.push({ code, nodeId, message });
  const accepts = (_nodeId: string, publicKey: string): Promise<boolean> =>
    Promise.resolve(keys.size === 0 || keys.has(publicKey));
  const maySucceed = (nodeId: string): Promise<boolean> => Promise.resolve(!contemporaries.has(nodeId));
  return {
    database,
    url,
    ingest: new IngestService({ database, keys: { accepts, maySucceed }, log, onAlarm, onKeyUsed: () => undefined }),
    epochs: new EpochService({ database, log, onAlarm }),
    alarms,
    keys,
    contemporaries,
    stop: async () => {
      await database.close();
      await drop();
    },
  };
}

/** Names the backends the same tests run on. */
export const backends = ['postgres', 'redis'] as const;

/** A queue backend of its own on the store's PostgreSQL. */
export async function postgresBackend(databaseUrl: string): Promise<QueueBackend> {
  const role = `queue_${randomBytes(6).toString('hex')}`;
  const password = randomBytes(12).toString('hex');
  return { databaseUrl: await prepareQueueDatabase(databaseUrl, { role, password }) };
}

export function spoolDirectory(): { readonly path: string; remove(): void } {
  const path = mkdtempSync(join(tmpdir(), 'sallyport-spool-'));
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) };
}

export function openSpool(directory: string, nodeId: string, more: Partial<AuditSpoolOptions> = {}): AuditSpool {
  return AuditSpool.open({
    directory,
    nodeId,
    build: 'test',
    auditSpoolBytesMax: 64 * 1024 * 1024,
    clock: systemClock,
    now: () => systemClock.now(),
    log,
    onAlarm: () => undefined,
    ...more,
  });
}

/** The shipping half: a spool with its shipper, and the watermarks that the sync socket would bring. */
export class TestNode {
  readonly spool: AuditSpool;
  readonly shipper: AuditShipper;
  readonly queues: Queues;
  readonly #timer: NodeJS.Timeout;

  constructor(options: {
    readonly directory: string;
    readonly signer: BatchSigner;
    readonly backend: QueueBackend;
    readonly epochs: Pick<EpochService, 'watermarksOf'>;
  }) {
    const { directory, signer, backend, epochs } = options;
    this.queues = createQueues(backend, { log });
    this.spool = openSpool(directory, signer.nodeId);
    const queue = this.queues.producer(auditQueue);
    this.shipper = new AuditShipper({ spool: this.spool, queue, signer: () => signer, clock: systemClock, log });
    this.#timer = setInterval(() => {
      epochs.watermarksOf(signer.nodeId).then(
        (watermarks) => this.shipper.onWatermark(watermarks),
        () => undefined,
      );
    }, 50);
    this.shipper.start();
  }

  async stop(drainMs: number): Promise<number> {
    await this.spool.close();
    const { recordsUnconfirmed } = await this.shipper.drain(drainMs);
    clearInterval(this.#timer);
    return recordsUnconfirmed;
  }
}
