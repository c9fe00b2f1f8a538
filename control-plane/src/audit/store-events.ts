import type { RawTransaction } from '../database/client.ts';
import type { LineProblem } from './chain-check.ts';
import { copyField, copyRows } from './copy-rows.ts';
import { type Chain, copyColumns, copyLine, eventRow, type Exchange, upsertEvents } from './event-rows.ts';

/** Errors of PostgreSQL that say the data does not fit, by the class of their code; others say that it cannot now. */
const dataErrorClasses: ReadonlySet<string> = new Set(['22', '23', '54']);

type Opened = Exchange & { readonly opening: NonNullable<Exchange['opening']> };

/**
 * Stores exchanges as events: new ones by COPY, and those that complete one that is there, or where anything about them
 * is unusual, by an INSERT that looks for what is there.
 * @returns those that were not stored, and why
 */
export async function storeEvents(
  sql: RawTransaction,
  chain: Chain,
  exchanges: readonly Exchange[],
): Promise<ReadonlyMap<Exchange, LineProblem>> {
  const isCopied = await copyEvents(sql, chain, exchanges.filter(isOpened));
  const left = isCopied ? exchanges.filter((exchange) => !isOpened(exchange)) : exchanges;
  const problems = new Map<Exchange, LineProblem>();
  const stored = await upsert(sql, chain, left);
  if (stored !== undefined) {
    for (const exchange of left) if (!stored.has(exchange.id)) problems.set(exchange, 'idTaken');
    return problems;
  }
  // Some row does not fit: each by itself, so that it alone is left out.
  for (const exchange of left) {
    const one = await upsert(sql, chain, [exchange]);
    if (one === undefined) problems.set(exchange, 'notStorable');
    else if (!one.has(exchange.id)) problems.set(exchange, 'idTaken');
  }
  return problems;
}

function isOpened(exchange: Exchange): exchange is Opened {
  return exchange.opening !== undefined;
}

/** @returns false where PostgreSQL says that the data does not fit, or that one of the events is there already */
async function copyEvents(sql: RawTransaction, chain: Chain, exchanges: readonly Opened[]): Promise<boolean> {
  if (exchanges.length === 0) return true;
  // Given here: with a default that PostgreSQL has to ask for in each row, COPY stores them one by one.
  const [clock] = await sql<{ now: string }[]>`select clock_timestamp()::text as now`;
  const head = [chain.nodeId, chain.epoch, clock?.now ?? null].map(copyField).join('\t');
  let lines = '';
  for (const exchange of exchanges) lines += copyLine(exchange, head);
  try {
    await sql.savepoint((inner) => copyRows(inner, 'audit_events', copyColumns, lines));
    return true;
  } catch (error) {
    if (isDataError(error)) return false;
    throw error;
  }
}

/** The ids stored, or undefined where PostgreSQL says that the data does not fit. */
async function upsert(
  sql: RawTransaction,
  chain: Chain,
  exchanges: readonly Exchange[],
): Promise<ReadonlySet<string> | undefined> {
  if (exchanges.length === 0) return new Set();
  const rows = JSON.stringify(exchanges.map((exchange) => eventRow(exchange, chain)));
  try {
    const stored = await sql.savepoint((inner) =>
      inner.unsafe<{ id: string }[]>(upsertEvents, [rows], { prepare: true }),
    );
    return new Set(stored.map(({ id }) => id));
  } catch (error) {
    if (isDataError(error)) return undefined;
    throw error;
  }
}

function isDataError(error: unknown): boolean {
  return (
    error instanceof Error &&
    'code' in error &&
    typeof error.code === 'string' &&
    dataErrorClasses.has(error.code.slice(0, 2))
  );
}
