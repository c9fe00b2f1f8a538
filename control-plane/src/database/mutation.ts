import { AppError } from '@sallyport/schema';
import postgres from 'postgres';
import type { Database, Transaction } from './client.ts';

const uniqueViolation = '23505';
/** Deadlock and serialization failure: PostgreSQL rolled one of two back, and doing it again is right. */
const repeatable: ReadonlySet<unknown> = new Set(['40P01', '40001']);
const attemptsMax = 3;
const uuidPattern = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

/** An id that cannot exist is answered as one that does not: the caller learns nothing from its form. */
export function isUuid(text: string): boolean {
  return uuidPattern.test(text);
}

class DryRunRollback extends Error {}

function postgresCode(thrown: unknown): string | undefined {
  if (thrown instanceof postgres.PostgresError) return thrown.code;
  return thrown instanceof Error && thrown.cause !== undefined ? postgresCode(thrown.cause) : undefined;
}

async function repeatingDeadlocks<Result>(attempt: () => Promise<Result>): Promise<Result> {
  for (let left = attemptsMax; ; left -= 1) {
    try {
      return await attempt();
    } catch (error) {
      if (left <= 1 || !repeatable.has(postgresCode(error))) throw error;
    }
  }
}

export interface MutationOptions {
  readonly dryRun?: boolean | null | undefined;
  /** Looks at what a dry run would leave behind, before it is rolled back. */
  readonly inspect?: ((tx: Transaction) => Promise<void>) | undefined;
}

/**
 * Runs the work of one mutation in one transaction: rows, audit event and generation live or die together. With
 * `dryRun` everything is done and then rolled back, so the answer and the violations are those of the real run.
 * A lost race for a unique name is CONFLICT. The work may run again after a deadlock, so it acts on nothing but `tx`.
 */
export async function mutate<Result>(
  database: Pick<Database, 'db'>,
  options: MutationOptions,
  work: (tx: Transaction) => Promise<Result>,
): Promise<Result> {
  let dryResult: { readonly value: Result } | undefined;
  try {
    return await repeatingDeadlocks(() =>
      database.db.transaction(async (tx) => {
        const value = await work(tx);
        if (options.dryRun !== true) return value;
        await options.inspect?.(tx);
        dryResult = { value };
        throw new DryRunRollback();
      }),
    );
  } catch (error) {
    if (error instanceof DryRunRollback && dryResult !== undefined) return dryResult.value;
    if (postgresCode(error) === uniqueViolation) {
      throw new AppError('CONFLICT', { internal: 'unique violation', cause: error });
    }
    throw error;
  }
}

/** Refuses to change an object that somebody else changed since the caller read it. */
export function assertRevision(row: { readonly revision: number }, expected: number | null | undefined): void {
  if (expected !== undefined && expected !== null && expected !== row.revision) {
    throw new AppError('CONFLICT', { internal: `revision is ${row.revision}, expected ${expected}` });
  }
}
