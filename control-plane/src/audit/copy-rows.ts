import { finished } from 'node:stream/promises';
import type { RawTransaction } from '../database/client.ts';

/** A value of a column; arrays are of text. */
export type CopyValue = string | number | null | readonly string[];

const special = /[\\\n\r\t]/g;
const escapes: Readonly<Record<string, string>> = { '\\': '\\\\', '\n': '\\n', '\r': '\\r', '\t': '\\t' };

/** A value as a field of PostgreSQL's COPY in text format. Text must be storable: PostgreSQL has no NUL. */
export function copyField(value: CopyValue): string {
  if (value === null) return '\\N';
  if (typeof value === 'number') return String(value);
  const text = typeof value === 'string' ? value : arrayLiteral(value);
  return text.replace(special, (character) => escapes[character] ?? character);
}

function arrayLiteral(items: readonly string[]): string {
  return `{${items.map((item) => `"${item.replace(/["\\]/g, '\\$&')}"`).join(',')}}`;
}

/**
 * Inserts rows by COPY, which takes a fraction of the time that an INSERT of many columns takes, and stores all of them
 * or none.
 * @param rows lines of fields as `copyField` makes them, each with its line feed
 */
export async function copyRows(sql: RawTransaction, table: string, columns: string, rows: string): Promise<void> {
  const stream = await sql.unsafe(`copy ${table} (${columns}) from stdin`).writable();
  const stored = finished(stream);
  stream.end(rows);
  await stored;
}
