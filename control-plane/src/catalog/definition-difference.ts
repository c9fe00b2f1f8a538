import { canonicalJson, memberPointer, revealHiddenText } from '@sallyport/schema';

/** One place in which two definitions differ. */
export interface Difference {
  /** JSON pointer (RFC 6901); empty for the whole. */
  readonly path: string;
  /** Undefined where there is nothing. */
  readonly before: unknown;
  readonly after: unknown;
}

/** Members whose elements have no order (JSON Schema 2020-12, Validation). */
const unordered: ReadonlySet<string> = new Set(['required', 'enum', 'type']);

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function sameElements(left: readonly unknown[], right: readonly unknown[]): boolean {
  const texts = (list: readonly unknown[]): string => list.map(canonicalJson).sort().join();
  return texts(left) === texts(right);
}

/** More than a person would read. */
export const differencesMax = 500;

/**
 * Where two definitions differ, down to the members that do, in the order of their paths; at most `differencesMax` of
 * them. What stands in another order where order says nothing is no difference. Linear in their size.
 */
export function differencesOf(before: unknown, after: unknown): Difference[] {
  const found: Difference[] = [];
  const walk = (was: unknown, is: unknown, path: string, member: string): void => {
    if (was === is || found.length >= differencesMax) return;
    if (isObject(was) && isObject(is)) {
      for (const key of [...new Set([...Object.keys(was), ...Object.keys(is)])].sort()) {
        const at = memberPointer(path, key);
        const own = (of: Record<string, unknown>): unknown => (Object.hasOwn(of, key) ? of[key] : undefined);
        walk(own(was), own(is), at, key);
      }
    } else if (Array.isArray(was) && Array.isArray(is) && unordered.has(member)) {
      if (!sameElements(was, is)) found.push({ path, before: was, after: is });
    } else if (Array.isArray(was) && Array.isArray(is)) {
      for (let index = 0; index < Math.max(was.length, is.length); index++) {
        walk(was[index], is[index], `${path}/${index}`, member);
      }
    } else found.push({ path, before: was, after: is });
  };
  walk(before, after, '', '');
  return found;
}

function linesOf(sign: string, value: unknown): string[] {
  if (value === undefined) return [];
  const text = typeof value === 'string' ? value : JSON.stringify(value, null, 2);
  return text.split('\n').map((line) => `${sign} ${revealHiddenText(line)}`);
}

/** The differences as a text that a person reads: what was, and what is, with hidden characters spelled out. */
export function differenceText(differences: readonly Difference[]): string {
  return differences
    .map(({ path, before, after }) =>
      [revealHiddenText(path === '' ? '/' : path), ...linesOf('-', before), ...linesOf('+', after)].join('\n'),
    )
    .join('\n\n');
}
