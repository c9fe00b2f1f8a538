/** JSON pointers (RFC 6901). */

/** The name of a member as it stands in a pointer. */
export function pointerPart(name: string): string {
  return name.replaceAll('~', '~0').replaceAll('/', '~1');
}

/** The pointer to a member of the object that is at `path`. */
export function memberPointer(path: string, name: string): string {
  return `${path}/${pointerPart(name)}`;
}

/** The names and indexes in a pointer, from the root on. */
export function pointerParts(path: string): string[] {
  return path
    .split('/')
    .slice(1)
    .map((part) => part.replaceAll('~1', '/').replaceAll('~0', '~'));
}
