import { AppError, type Violation } from '@sallyport/schema';
import { assertRevision } from './mutation.ts';
import type { Violations } from './violations.ts';

/** Most items of one mutation, where nothing else is said. */
export const batchItemsMax = 500;

/** The items of one mutation, which are changed all together or not at all. */
export interface Batch<Item> {
  readonly items: readonly Item[];
  /** Where an item stands in the input: `input.items[3]`, or `input` where it is the only one there can be. */
  readonly pathOf: (index: number) => string;
  readonly isList: boolean;
}

export interface Reference {
  readonly id: string;
  readonly expectedRevision?: number | null | undefined;
}

/** An item with its row and its place in the input. */
export interface Located<Item, Row> {
  readonly item: Item;
  readonly path: string;
  readonly before: Row;
}

/** The input of a mutation that changes one object. */
export function batchOfOne<Item>(input: Item): Batch<Item> {
  return { items: [input], pathOf: () => 'input', isList: false };
}

/** The items of a mutation that changes several; none or too many are INVALID_INPUT. */
export function batchOf<Item>(items: readonly Item[], itemsMax: number = batchItemsMax): Batch<Item> {
  if (items.length === 0 || items.length > itemsMax) {
    const message = `must have 1 to ${itemsMax} items`;
    throw new AppError('INVALID_INPUT', { violations: [{ path: 'input.items', message }] });
  }
  return { items, pathOf: (index) => `input.items[${index}]`, isList: true };
}

/**
 * The rows of the items, locked in the order of their ids, so that two mutations cannot each wait for the other. An item
 * of a list that does not exist or is given twice is added to `found` and left out; one that somebody else changed makes
 * it CONFLICT, naming every such item. What is wrong with the only one there can be is thrown as it is.
 * @param noun what the rows are, for people: "server"
 * @param lock the row under a lock, or NOT_FOUND
 */
export async function lockBatch<Item extends Reference, Row extends { readonly revision: number }>(
  batch: Batch<Item>,
  found: Violations,
  noun: string,
  lock: (id: string) => Promise<Row>,
): Promise<Located<Item, Row>[]> {
  const rows = new Map<string, Row>();
  for (const id of [...new Set(batch.items.map((item) => item.id.toLowerCase()))].sort()) {
    const row = await lock(id).catch((error: unknown) => {
      if (batch.isList && error instanceof AppError && error.code === 'NOT_FOUND') return undefined;
      throw error;
    });
    if (row !== undefined) rows.set(id, row);
  }
  const located: Located<Item, Row>[] = [];
  const conflicts: Violation[] = [];
  const seen = new Set<string>();
  for (const [index, item] of batch.items.entries()) {
    const [id, path] = [item.id.toLowerCase(), batch.pathOf(index)];
    const before = rows.get(id);
    if (before === undefined) found.add(`${path}.id`, `there is no such ${noun}`);
    else if (seen.has(id)) found.add(`${path}.id`, 'is given twice');
    else {
      if (!batch.isList) assertRevision(before, item.expectedRevision);
      if ((item.expectedRevision ?? before.revision) !== before.revision) {
        const message = `the ${noun} has revision ${before.revision} by now`;
        conflicts.push({ path: `${path}.expectedRevision`, message });
      }
      located.push({ item, path, before });
    }
    seen.add(id);
  }
  if (conflicts.length > 0 && found.list.length === 0) throw new AppError('CONFLICT', { violations: conflicts });
  return located;
}

/** The row of a mutation that changes one object. */
export function only<Row>([row]: readonly Row[]): Row {
  if (row === undefined) throw new AppError('INTERNAL', { internal: 'nothing was changed' });
  return row;
}
