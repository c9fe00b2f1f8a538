/**
 * Turns a lookup of many ids into a lookup of one that coalesces what is asked for in the same turn of the event loop,
 * so that a list of rows reads its neighbours in one query. Keeps nothing: every turn reads anew.
 */
export function batched<Value>(
  lookup: (ids: readonly string[]) => Promise<ReadonlyMap<string, Value>>,
): (id: string) => Promise<Value | undefined> {
  let pending: { readonly ids: Set<string>; readonly result: Promise<ReadonlyMap<string, Value>> } | undefined;
  return async (id) => {
    if (pending === undefined) {
      const ids = new Set<string>();
      const result = new Promise<void>((resolve) => setImmediate(resolve)).then(() => {
        pending = undefined;
        return lookup([...ids]);
      });
      pending = { ids, result };
    }
    pending.ids.add(id);
    return (await pending.result).get(id);
  };
}
