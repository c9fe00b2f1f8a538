const unstorable = /\0|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

/**
 * The text with what PostgreSQL cannot hold (NUL, lone surrogates) written as `\u0000`. For reading and searching;
 * the exact text is in the event's line. Text that holds such an escape literally reads the same.
 */
export function storableText(text: string): string {
  if (isStorable(text)) return text;
  return text.replace(unstorable, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

/** Whether PostgreSQL can hold the text as it is. */
export function isStorable(text: string): boolean {
  return text.isWellFormed() && !text.includes('\0');
}
