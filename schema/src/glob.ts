/** Longest pattern accepted, in characters. */
export const globLengthMax = 512;
/** Most `*` in one pattern: matching is linear in name length × stars. */
export const globStarsMax = 8;

export type Matcher = (name: string) => boolean;

/** What is wrong with a pattern, or undefined. */
export function globProblem(pattern: string): string | undefined {
  if (pattern.length === 0) return 'is empty; write "*" for everything or leave the list empty for nothing';
  if (pattern.length > globLengthMax) return `is longer than ${globLengthMax} characters`;
  if (pattern.split('*').length - 1 > globStarsMax) return `has more than ${globStarsMax} "*"`;
  return undefined;
}

/**
 * Compiles an exact name or a glob. Only `*` is special: it matches any run of characters, the empty one and `/`
 * included. Comparison is case-sensitive and by code unit. No regular expression is involved, so no pattern can be slow.
 */
export function compileGlob(pattern: string): Matcher {
  const parts = pattern.split('*');
  if (parts.length === 1) return (name) => name === pattern;
  if (pattern === '*') return () => true;
  const first = parts[0] ?? '';
  const last = parts[parts.length - 1] ?? '';
  const middle = parts.slice(1, -1).filter((part) => part !== '');
  return (name) => {
    if (name.length < first.length + last.length || !name.startsWith(first) || !name.endsWith(last)) return false;
    let from = first.length;
    const end = name.length - last.length;
    for (const part of middle) {
      const at = name.indexOf(part, from);
      if (at < 0 || at + part.length > end) return false;
      from = at + part.length;
    }
    return true;
  };
}
