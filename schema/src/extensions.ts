/**
 * Extensions of the protocol: named in the capabilities of both sides (2026-07-28 basic/versioning, Extension
 * Negotiation). A server's allow-list says which of them pass the gateway.
 */

export const tasksExtension = 'io.modelcontextprotocol/tasks';
/** MCP Apps. */
export const appsExtension = 'io.modelcontextprotocol/ui';

/** What a server is registered with where nothing is said: the extensions whose every method and id the gateway knows. */
export const defaultExtensions: readonly string[] = [tasksExtension, appsExtension];

export const extensionsMax = 64;
const extensionLengthMax = 128;
const extensionForm = /^[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?\/[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?$/;

/** What is wrong with the identifier of an extension, or undefined. */
export function extensionProblem(identifier: string): string | undefined {
  if (identifier.length <= extensionLengthMax && extensionForm.test(identifier)) return undefined;
  return `must be a prefix, a slash and a name, at most ${extensionLengthMax} characters, for example ${tasksExtension}`;
}
