import { arrayElements, memberRange, type Range } from './json-scanner.ts';

/**
 * Where the value is that a JSON pointer (RFC 6901) names; undefined where there is none.
 * Only for bytes that passed `scanJson`.
 * @param parts the pointer, cut and unescaped
 */
export function rangeAt(bytes: Buffer, root: Range, parts: readonly string[]): Range | undefined {
  let range: Range | undefined = root;
  for (const part of parts) {
    if (range === undefined) return undefined;
    const elements = arrayElements(bytes, range);
    if (elements === undefined) range = memberRange(bytes, range, part);
    else range = /^(?:0|[1-9]\d{0,8})$/.test(part) ? elements[Number(part)] : undefined;
  }
  return range;
}
