import { drizzle, type PostgresJsDatabase } from 'drizzle-orm/postgres-js';
import postgres from 'postgres';

export type Drizzle = PostgresJsDatabase;
/** What is in scope inside a transaction: only this, never the pool. */
export type Transaction = Parameters<Parameters<Drizzle['transaction']>[0]>[0];
/** Where a read may run: in a transaction or outside. */
export type Reader = Drizzle | Transaction;
export type RawSql = postgres.Sql;
/** The same as `Transaction` for tagged-template SQL. */
export type RawTransaction = Parameters<Parameters<RawSql['begin']>[1]>[0];

export interface Database {
  /** Typed queries. Its driver has no serializers of its own: drizzle takes them away, so never use it raw. */
  readonly db: Drizzle;
  /** Tagged-template SQL, LISTEN, reserved connections: a client that drizzle has not touched. */
  readonly raw: RawSql;
  close(): Promise<void>;
}

export interface DatabaseOptions {
  readonly url: string;
  readonly connectionsMax: number;
}

const connectTimeoutSeconds = 10;
const closeTimeoutSeconds = 5;
/** No statement of the API or a job may hold a connection for longer. */
const statementTimeoutMs = 30_000;

export function openDatabase(options: DatabaseOptions): Database {
  const settings = {
    max: options.connectionsMax,
    connect_timeout: connectTimeoutSeconds,
    onnotice: () => {},
    connection: { application_name: 'sallyport-control-plane', statement_timeout: statementTimeoutMs },
  } as const;
  const typed = postgres(options.url, settings);
  const raw = postgres(options.url, settings);
  return {
    db: drizzle(typed),
    raw,
    close: async () => {
      await Promise.all([typed.end({ timeout: closeTimeoutSeconds }), raw.end({ timeout: closeTimeoutSeconds })]);
    },
  };
}

const connectionCodes: ReadonlySet<unknown> = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ETIMEDOUT',
  'EPIPE',
  'CONNECT_TIMEOUT',
  'CONNECTION_CLOSED',
  'CONNECTION_ENDED',
  'CONNECTION_DESTROYED',
  // Starting up, shutting down, out of connections.
  '57P01',
  '57P02',
  '57P03',
  '53300',
]);

/** Whether the database was away, rather than the statement wrong: the same request may succeed later. */
export function isConnectionFailure(thrown: unknown): boolean {
  if (!(thrown instanceof Error)) return false;
  if ('code' in thrown && connectionCodes.has(thrown.code)) return true;
  return thrown.cause !== undefined && isConnectionFailure(thrown.cause);
}
