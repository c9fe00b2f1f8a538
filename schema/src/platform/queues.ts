import { setTimeout as delay } from 'node:timers/promises';
import {
  createPostgresBackend,
  type Job,
  type JobsOptions,
  type JobType,
  type PostgresConnectionOptions,
  Queue,
  runMigrations,
  withBackend,
  Worker,
} from 'bullmq';
import { Redis } from 'ioredis';
import pg from 'pg';
import { keepStringsFast } from './fast-strings.ts';
import type { Log } from './log.ts';

// ioredis has an heir of strings.
keepStringsFast();

/** Redis in production; where there is none, PostgreSQL under a role that owns the schema `bullmq` and nothing else. */
export type QueueBackend = { readonly redisUrl: string } | { readonly databaseUrl: string };

export interface QueueProducer {
  /**
   * Adds a job unless one with this id is waiting or being worked on.
   * Rejects within seconds when the backend is away (of a node, behind what its other queues wait for); the job may have
   * been added all the same.
   * @param lines texts with a line feed between two of them, which become the member `lines` of the data; nobody may use
   * the bytes afterwards
   */
  add(jobId: string, data: object, lines?: Buffer): Promise<void>;
  close(): Promise<void>;
}

/** Jobs by their state. */
export interface QueueDepth {
  readonly waiting: number;
  readonly active: number;
  /** Failed, and tried again in a moment. */
  readonly delayed: number;
}

export interface QueueGauge {
  /** Rejects within seconds when the backend is away. */
  depth(): Promise<QueueDepth>;
  close(): Promise<void>;
}

export interface QueueConsumer {
  /** Lets running jobs end, then disconnects. */
  close(): Promise<void>;
}

export interface ConsumerOptions {
  readonly concurrency: number;
  /** A rejection makes the job run again after a second, many times; then it is removed and its sender repeats it. */
  readonly handle: (data: unknown) => Promise<void>;
}

export interface Queues {
  producer(name: string): QueueProducer;
  gauge(name: string): QueueGauge;
  consumer(name: string, options: ConsumerOptions): QueueConsumer;
}

const addTimeoutMs = 3_000;
const closeTimeoutMs = 3_000;
const connectTimeoutMs = 2_000;
const queryTimeoutMs = 5_000;
const reconnectDelayMsMax = 1_000;
/** Of a worker to PostgreSQL, for jobs that it takes and ends at once; beside them it listens and looks after locks. */
const workerConnectionsMax = 4;
const attemptsMax = 30;
const attemptDelayMs = 1_000;
/** A worker that dies holds its job for at most the sum of these. */
const lockDurationMs = 5_000;
const stalledIntervalMs = 5_000;
const stalledCountMax = 20;
/** Jobs are made again by their sender, so nothing of a finished one is kept: a kept id would swallow the repetition. */
const jobOptions = {
  removeOnComplete: true,
  removeOnFail: true,
  attempts: attemptsMax,
  backoff: { type: 'fixed', delay: attemptDelayMs },
  stackTraceLimit: 0,
} as const;

/** The one place that decides which backend BullMQ runs on. */
export function createQueues(backend: QueueBackend, options: { readonly log: Log }): Queues {
  const { log } = options;
  return {
    producer: (name) => new Producer(() => openQueue(backend, name, log)),
    gauge: (name) => new Producer(() => openQueue(backend, name, log)),
    consumer: (name, consumer) => new Consumer(() => openWorker(backend, name, consumer, log), log),
  };
}

/** A queue or worker that was usable once. BullMQ never recovers one whose first attempt to connect has failed. */
interface Opened<Handle> {
  readonly handle: Handle;
  close(): Promise<void>;
}

class Producer implements QueueProducer, QueueGauge {
  readonly #open: () => Promise<Opened<Adder>>;
  #current: Promise<Opened<Adder>> | undefined;

  constructor(open: () => Promise<Opened<Adder>>) {
    this.#open = open;
  }

  async add(jobId: string, data: object, lines?: Buffer): Promise<void> {
    const queue = await this.#opened();
    const whole = lines === undefined ? data : { ...data, lines: lines.toString('utf8').split('\n') };
    await within(addTimeoutMs, 'the queue took too long', queue.add('batch', whole, { ...jobOptions, jobId }));
  }

  async depth(): Promise<QueueDepth> {
    const queue = await this.#opened();
    const counts = queue.getJobCounts('waiting', 'active', 'delayed');
    const { waiting = 0, active = 0, delayed = 0 } = await within(addTimeoutMs, 'the queue took too long', counts);
    return { waiting, active, delayed };
  }

  async #opened(): Promise<Adder> {
    this.#current ??= this.#open();
    try {
      return (await this.#current).handle;
    } catch (error) {
      this.#current = undefined;
      throw error;
    }
  }

  async close(): Promise<void> {
    const current = this.#current;
    this.#current = undefined;
    const opened = await current?.catch(() => undefined);
    await opened?.close();
  }
}

class Consumer implements QueueConsumer {
  #opened: Opened<Closable> | undefined;
  readonly #stopping = new AbortController();
  readonly #opening: Promise<void>;

  constructor(open: () => Promise<Opened<Closable>>, log: Log) {
    this.#opening = this.#keepTrying(open, log);
  }

  async close(): Promise<void> {
    this.#stopping.abort();
    await this.#opening;
    await this.#opened?.close();
  }

  async #keepTrying(open: () => Promise<Opened<Closable>>, log: Log): Promise<void> {
    const { signal } = this.#stopping;
    while (!signal.aborted) {
      try {
        this.#opened = await open();
        return;
      } catch (error) {
        log.warn({ err: error }, 'the queue is away, trying again');
        await delay(reconnectDelayMsMax, undefined, { signal, ref: false }).catch(() => undefined);
      }
    }
  }
}

type Adder = {
  add(name: string, data: unknown, options: JobsOptions): Promise<unknown>;
  getJobCounts(...states: JobType[]): Promise<Record<string, number>>;
};
type Closable = { close(): Promise<void>; disconnect(): Promise<void> };

const postgresClasses = withBackend(createPostgresBackend);

async function openQueue(backend: QueueBackend, name: string, log: Log): Promise<Opened<Adder>> {
  const onError = (error: Error): void => log.debug({ err: error, queue: name }, 'the queue reports an error');
  if ('redisUrl' in backend) {
    const client = await connectRedis(backend.redisUrl, onError);
    const queue = new Queue(name, { connection: client, skipWaitingForReady: true, skipMetasUpdate: true });
    queue.on('error', onError);
    return {
      handle: queue,
      close: async () => {
        await closing(queue, log);
        client.disconnect();
      },
    };
  }
  const pool = await connectPostgres(backend.databaseUrl, 2, onError);
  const queue = new postgresClasses.Queue(name, { connection: bullmqPool(pool), skipMetasUpdate: true });
  queue.on('error', onError);
  return usable(queue, pool, log);
}

async function openWorker(
  backend: QueueBackend,
  name: string,
  consumer: ConsumerOptions,
  log: Log,
): Promise<Opened<Closable>> {
  const onError = (error: Error): void => log.debug({ err: error, queue: name }, 'the worker reports an error');
  const process = async (job: Job): Promise<void> => consumer.handle(job.data);
  const common = {
    concurrency: consumer.concurrency,
    lockDuration: lockDurationMs,
    stalledInterval: stalledIntervalMs,
    maxStalledCount: stalledCountMax,
    removeOnComplete: { count: 0 },
    removeOnFail: { count: 0 },
    runRetryDelay: reconnectDelayMsMax,
  };
  if ('redisUrl' in backend) {
    const { redisUrl } = backend;
    (await connectRedis(redisUrl, onError)).disconnect();
    // A worker's commands block on purpose: they wait for a Redis that is away.
    const worker = new Worker(name, process, { ...common, connection: { url: redisUrl, maxRetriesPerRequest: null } });
    worker.on('error', onError);
    return { handle: worker, close: () => closing(worker, log) };
  }
  const connectionsMax = Math.min(consumer.concurrency, workerConnectionsMax) + 3;
  const pool = await connectPostgres(backend.databaseUrl, connectionsMax, onError);
  const worker = new postgresClasses.Worker(name, process, { ...common, connection: bullmqPool(pool) });
  worker.on('error', onError);
  return usable(worker, pool, log);
}

/** A client that fails at once while Redis is away, and reconnects by itself once it was connected. */
async function connectRedis(redisUrl: string, onError: (error: Error) => void): Promise<Redis> {
  const client = new Redis(redisUrl, {
    lazyConnect: true,
    connectTimeout: connectTimeoutMs,
    retryStrategy: (attempt) => Math.min(attempt * 50, reconnectDelayMsMax),
    maxRetriesPerRequest: 1,
    enableOfflineQueue: false,
  });
  client.on('error', onError);
  try {
    await within(connectTimeoutMs, 'Redis does not answer', client.connect());
    return client;
  } catch (error) {
    client.disconnect();
    throw error;
  }
}

/** An own pool, because BullMQ can load the driver by itself only from CommonJS; one connection of it listens. */
async function connectPostgres(
  databaseUrl: string,
  connectionsMax: number,
  onError: (error: Error) => void,
): Promise<pg.Pool> {
  const pool = new pg.Pool({
    connectionString: databaseUrl,
    max: connectionsMax,
    connectionTimeoutMillis: connectTimeoutMs,
    query_timeout: queryTimeoutMs,
    keepAlive: true,
    application_name: 'sallyport-queue',
    options: `-c search_path="${queueSchema}"`,
  });
  pool.on('error', onError);
  try {
    await pool.query('select 1');
    return pool;
  } catch (error) {
    await pool.end();
    throw error;
  }
}

/** BullMQ describes the part of a pool that it uses in types of its own, which differ in `readonly` alone. */
function bullmqPool(pool: pg.Pool): PostgresConnectionOptions {
  return pool as unknown as PostgresConnectionOptions;
}

async function usable<Handle extends Closable & { waitUntilReady(): Promise<unknown> }>(
  handle: Handle,
  pool: pg.Pool,
  log: Log,
): Promise<Opened<Handle>> {
  const close = async (): Promise<void> => {
    await closing(handle, log);
    await within(closeTimeoutMs, 'the pool of the queue did not end', pool.end()).catch((error: unknown) =>
      log.debug({ err: error }, 'closing the queue'),
    );
  };
  try {
    await handle.waitUntilReady();
    return { handle, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** A backend that is away must not keep a process from ending. */
async function closing(handle: Closable, log: Log): Promise<void> {
  try {
    await within(closeTimeoutMs, 'the queue did not close', handle.close());
  } catch (error) {
    log.debug({ err: error }, 'closing the queue');
    await within(closeTimeoutMs, 'the queue did not disconnect', handle.disconnect()).catch(() => undefined);
  }
}

async function within<T>(timeoutMs: number, problem: string, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(problem)), timeoutMs);
  });
  try {
    return await Promise.race([work, timeout]);
  } finally {
    clearTimeout(timer);
  }
}

const queueSchema = 'bullmq';

/**
 * Makes the PostgreSQL backend ready: a login role that owns the schema of the queue and can read nothing else, and
 * BullMQ's tables in it. Idempotent; sets the role's password each time.
 * @param adminUrl a superuser's or the database owner's URL with the right to create roles
 * @returns the URL of the role on the same database
 */
export async function prepareQueueDatabase(
  adminUrl: string,
  credentials: { readonly role: string; readonly password: string },
): Promise<string> {
  const url = new URL(adminUrl);
  url.username = encodeURIComponent(credentials.role);
  url.password = encodeURIComponent(credentials.password);
  const client = new pg.Client({ connectionString: adminUrl });
  await client.connect();
  try {
    const role = pg.escapeIdentifier(credentials.role);
    const existing = await client.query('select 1 from pg_roles where rolname = $1', [credentials.role]);
    const verb = existing.rowCount === 0 ? 'create' : 'alter';
    await client.query(
      `${verb} role ${role} login nosuperuser nocreatedb nocreaterole password ${pg.escapeLiteral(credentials.password)}`,
    );
    const database = pg.escapeIdentifier(new URL(adminUrl).pathname.slice(1));
    await client.query(`grant connect on database ${database} to ${role}`);
    await client.query(`create schema if not exists ${queueSchema}`);
    await client.query(`alter schema ${queueSchema} owner to ${role}`);
    await giveQueueTo(client, role);
    // BullMQ's migrations say "create schema if not exists", for which PostgreSQL wants this right even where it exists.
    await client.query(`grant create on database ${database} to ${role}`);
    try {
      await migrateQueues(url.href);
    } finally {
      await client.query(`revoke create on database ${database} from ${role}`);
    }
  } finally {
    await client.end();
  }
  return url.href;
}

/** Tables and functions that another role had made before, as `ensureQueueSchema` does. */
async function giveQueueTo(client: pg.Client, role: string): Promise<void> {
  const { rows } = await client.query<{ statement: string }>(
    `select format('alter table %s owner to ', c.oid::regclass) as statement from pg_class c
     where c.relnamespace = $1::regnamespace and (c.relkind in ('r', 'p', 'v', 'm') or c.relkind = 'S'
       -- A sequence that belongs to a column goes with its table.
       and not exists (select from pg_depend d where d.objid = c.oid and d.deptype in ('a', 'i')))
     union all
     select format('alter routine %s owner to ', p.oid::regprocedure) from pg_proc p
     where p.pronamespace = $1::regnamespace
     union all
     select format('alter type %s owner to ', t.oid::regtype) from pg_type t
     where t.typnamespace = $1::regnamespace and t.typtype in ('e', 'd')`,
    [queueSchema],
  );
  for (const { statement } of rows) await client.query(`${statement}${role}`);
}

/** Any constant shared by all processes: those that start at once take turns. */
const queueSchemaLock = 0x5350_0008;

/**
 * Makes the queue's tables under the caller's own role where there are none, for an installation that has neither Redis
 * nor a prepared role. What `prepareQueueDatabase` made is left alone.
 */
export async function ensureQueueSchema(databaseUrl: string): Promise<void> {
  const client = new pg.Client({ connectionString: databaseUrl });
  await client.connect();
  try {
    await client.query(`select pg_advisory_lock(${queueSchemaLock})`);
    const existing = await client.query('select 1 from pg_namespace where nspname = $1', [queueSchema]);
    if (existing.rowCount === 0) await migrateQueues(databaseUrl);
  } finally {
    await client.end();
  }
}

async function migrateQueues(url: string): Promise<void> {
  const own = new pg.Client({ connectionString: url });
  await own.connect();
  try {
    await runMigrations(own, queueSchema);
  } finally {
    await own.end();
  }
}
