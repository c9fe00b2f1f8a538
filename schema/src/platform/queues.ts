import {
  type Job,
  Queue,
  type QueueOptions,
  Worker,
  type WorkerOptions,
  createPostgresBackend,
  runMigrations,
} from 'bullmq';
import pg from 'pg';
import type { Log } from './log.ts';

/** Redis in production; where there is none, PostgreSQL under a role that owns the schema `bullmq` and nothing else. */
export type QueueBackend = { readonly redisUrl: string } | { readonly databaseUrl: string };

export interface QueueProducer {
  /**
   * Adds a job unless one with this id is waiting or being worked on.
   * Rejects within seconds when the backend is away; the job may have been added all the same.
   */
  add(jobId: string, data: unknown): Promise<void>;
  close(): Promise<void>;
}

export interface QueueConsumer {
  /** Jobs waiting or delayed. */
  depth(): Promise<number>;
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
  consumer(name: string, options: ConsumerOptions): QueueConsumer;
}

const addTimeoutMs = 3_000;
const closeTimeoutMs = 3_000;
const connectTimeoutMs = 2_000;
const queryTimeoutMs = 5_000;
const reconnectDelayMsMax = 1_000;
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
  return {
    producer: (name) => new Producer(() => openQueue(backend, name, options.log)),
    consumer: (name, consumer) => new Consumer(() => openWorker(backend, name, consumer, options.log), options.log),
  };
}

interface Opened<Handle> {
  readonly handle: Handle;
  /** False until the connection was usable once; BullMQ never recovers an instance whose first attempt failed. */
  usable(): boolean;
  close(): Promise<void>;
}

class Producer implements QueueProducer {
  readonly #open: () => Opened<Queue>;
  #current: Opened<Queue> | undefined;

  constructor(open: () => Opened<Queue>) {
    this.#open = open;
  }

  async add(jobId: string, data: unknown): Promise<void> {
    this.#current ??= this.#open();
    const current = this.#current;
    try {
      await within(
        addTimeoutMs,
        'the queue took too long',
        current.handle.add('batch', data, { ...jobOptions, jobId }),
      );
    } catch (error) {
      if (!current.usable() && this.#current === current) {
        this.#current = undefined;
        await current.close();
      }
      throw error;
    }
  }

  async close(): Promise<void> {
    await this.#current?.close();
    this.#current = undefined;
  }
}

class Consumer implements QueueConsumer {
  readonly #open: () => Opened<Worker>;
  readonly #log: Log;
  #current: Opened<Worker> | undefined;
  #retry: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(open: () => Opened<Worker>, log: Log) {
    this.#open = open;
    this.#log = log;
    this.#start();
  }

  async depth(): Promise<number> {
    const counts = await this.#current?.handle.getBackend().getCounts(['waiting', 'delayed']);
    return counts?.reduce((sum, count) => sum + count, 0) ?? 0;
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#retry);
    await this.#current?.close();
  }

  #start(): void {
    const current = this.#open();
    this.#current = current;
    current.handle.waitUntilReady().catch((error: unknown) => {
      if (this.#closed) return;
      this.#log.warn({ error }, 'the queue is away, trying again');
      this.#retry = setTimeout(() => {
        void current.close().finally(() => {
          if (!this.#closed) this.#start();
        });
      }, reconnectDelayMsMax);
    });
  }
}

function redisConnection(redisUrl: string, forWorker: boolean): object {
  return {
    url: redisUrl,
    connectTimeout: connectTimeoutMs,
    retryStrategy: (attempt: number) => Math.min(attempt * 50, reconnectDelayMsMax),
    // A producer must fail at once, a worker must wait: its commands block on purpose.
    ...(forWorker ? { maxRetriesPerRequest: null } : { maxRetriesPerRequest: 1, enableOfflineQueue: false }),
  };
}

/** An own pool, because BullMQ can load the driver by itself only from CommonJS; one connection of it listens. */
function postgresPool(databaseUrl: string, connectionsMax: number, log: Log): pg.Pool {
  const pool = new pg.Pool({
    connectionString: databaseUrl,
    max: connectionsMax,
    connectionTimeoutMillis: connectTimeoutMs,
    query_timeout: queryTimeoutMs,
    keepAlive: true,
    application_name: 'sallyport-queue',
    options: `-c search_path="${queueSchema}"`,
  });
  pool.on('error', (error) => log.debug({ error }, 'a connection of the queue was lost'));
  return pool;
}

function openQueue(backend: QueueBackend, name: string, log: Log): Opened<Queue> {
  const onError = (error: Error): void => log.debug({ error, queue: name }, 'the queue reports an error');
  if ('redisUrl' in backend) {
    const connection = redisConnection(backend.redisUrl, false);
    const queue = new Queue(name, { connection, skipWaitingForReady: true, skipMetasUpdate: true });
    queue.on('error', onError);
    // ioredis reconnects by itself, whatever the first attempt gave.
    return { handle: queue, usable: () => true, close: () => closing(queue, log) };
  }
  const pool = postgresPool(backend.databaseUrl, 2, log);
  const options: QueueOptions = { connection: pool, skipMetasUpdate: true };
  const queue = new Queue(name, options, createPostgresBackend as never) as Queue;
  queue.on('error', onError);
  return opened(queue, pool, log);
}

function openWorker(backend: QueueBackend, name: string, consumer: ConsumerOptions, log: Log): Opened<Worker> {
  const process = async (job: Job): Promise<void> => consumer.handle(job.data);
  const common = {
    concurrency: consumer.concurrency,
    lockDuration: lockDurationMs,
    stalledInterval: stalledIntervalMs,
    maxStalledCount: stalledCountMax,
    removeOnComplete: { count: 0 },
    removeOnFail: { count: 0 },
    runRetryDelay: reconnectDelayMsMax,
  } as const satisfies Partial<WorkerOptions>;
  if ('redisUrl' in backend) {
    const worker = new Worker(name, process, { ...common, connection: redisConnection(backend.redisUrl, true) });
    worker.on('error', (error) => log.debug({ error, queue: name }, 'the worker reports an error'));
    return { handle: worker, usable: () => true, close: () => closing(worker, log) };
  }
  const pool = postgresPool(backend.databaseUrl, consumer.concurrency + 3, log);
  const options: WorkerOptions = { ...common, connection: pool };
  const worker = new Worker(name, process, options, createPostgresBackend as never) as Worker;
  worker.on('error', (error) => log.debug({ error, queue: name }, 'the worker reports an error'));
  return opened(worker, pool, log);
}

function opened<Handle extends Queue | Worker>(handle: Handle, pool: pg.Pool, log: Log): Opened<Handle> {
  let usable = false;
  handle.waitUntilReady().then(
    () => (usable = true),
    () => undefined,
  );
  return {
    handle,
    usable: () => usable,
    close: async () => {
      await closing(handle, log);
      await within(closeTimeoutMs, 'the pool of the queue did not end', pool.end()).catch((error: unknown) =>
        log.debug({ error }, 'closing the queue'),
      );
    },
  };
}

/** A backend that is away must not keep a process from ending. */
async function closing(handle: Queue | Worker, log: Log): Promise<void> {
  try {
    await within(closeTimeoutMs, 'the queue did not close', handle.close());
  } catch (error) {
    log.debug({ error }, 'closing the queue');
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

async function migrateQueues(url: string): Promise<void> {
  const own = new pg.Client({ connectionString: url });
  await own.connect();
  try {
    await runMigrations(own, queueSchema);
  } finally {
    await own.end();
  }
}
