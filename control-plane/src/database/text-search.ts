import { and, type SQL, sql } from 'drizzle-orm';
import { Violations } from './violations.ts';

/** Longest text searched for, in characters. */
export const searchLengthMax = 128;
/** Most words of it: each is looked for by itself. */
const searchWordsMax = 8;

/**
 * Rows whose text contains every word of `search`, in any case and order.
 * @param text the expression of an index with `gin_trgm_ops`, letter for letter: lower-case text that is never null
 * @param search absent or blank does not narrow; too long a text is INVALID_INPUT at `search`
 */
export function containsWords(text: SQL, search: string | null | undefined): SQL | undefined {
  if (search === undefined || search === null) return undefined;
  const found = new Violations();
  found.text('search', search, 0, searchLengthMax);
  const words = search
    .toLowerCase()
    .split(/\s+/u)
    .filter((word) => word !== '');
  if (words.length > searchWordsMax) found.add('search', `must have at most ${searchWordsMax} words`);
  found.assertNone();
  return and(...words.map((word) => sql`${text} like ${`%${escaped(word)}%`}`));
}

/** As a pattern of LIKE that matches just the text. */
export function escaped(text: string): string {
  return text.replace(/[\\%_]/g, String.raw`\$&`);
}
