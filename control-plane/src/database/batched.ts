/**
 * Turns a lookup of many rows into a lookup of one that coalesces what is asked for in the same turn of the event loop,
 * so that a list of rows reads its neighbours in one query. Keeps nothing: every turn reads anew.
 */
export function batchedRows<Row extends { readonly id: string }, Value>(
  lookup: (rows: readonly Row[]) => Promise<ReadonlyMap<string, Value>>,
): (row: Row) => Promise<Value | undefined> {
  let pending: { readonly rows: Map<string, Row>; readonly result: Promise<ReadonlyMap<string, Value>> } | undefined;
  return async (row) => {
    if (pending === undefined) {
      const rows = new Map<string, Row>();
      const result = new Promise<void>((resolve) => setImmediate(resolve)).then(() => {
        pending = undefined;
        return lookup([...rows.values()]);
      });
      pending = { rows, result };
    }
    pending.rows.set(row.id, row);
    return (await pending.result).get(row.id);
  };
}

/** The same of what is looked up by its id alone. */
export function batched<Value>(
  lookup: (ids: readonly string[]) => Promise<ReadonlyMap<string, Value>>,
): (id: string) => Promise<Value | undefined> {
  const of = batchedRows((rows: readonly { readonly id: string }[]) => lookup(rows.map(({ id }) => id)));
  return (id) => of({ id });
}
