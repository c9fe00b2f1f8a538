import type { Database } from './client.ts';

/** Told on each notification, and once after each (re)connection: what happened in between may have been missed. */
export async function listen(
  database: Pick<Database, 'raw'>,
  channel: string,
  onSignal: () => void,
): Promise<() => Promise<void>> {
  const subscription = await database.raw.listen(channel, onSignal, onSignal);
  return () => subscription.unlisten();
}
