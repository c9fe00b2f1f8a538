import { canonicalJson, sha256 } from './canonical-json.ts';

/**
 * The digest that pins a tool, prompt, resource, resource template or the instructions of a server: SHA-256 over the canonical form (RFC 8785) of
 * the whole raw object as the upstream sent it, unknown fields included, so that nothing a model may read can change
 * unnoticed.
 */
export function definitionDigest(rawDefinition: unknown): string {
  return `sha256:${sha256(canonicalJson(rawDefinition))}`;
}

/** What names the instructions of a server among its definitions. */
export const instructionsName = 'instructions';

/** The instructions of a server as a definition: they are a bare text where it is greeted. */
export function instructionsDefinition(text: string): { readonly instructions: string } {
  return { instructions: text };
}

/** Whether a URI is of MCP Apps (SEP-1865): what is read there runs in the client. Clients may not regard case. */
export function isViewUri(uri: string): boolean {
  return /^\s*ui:/i.test(uri);
}

/**
 * What is read under the URI of a view as a definition: each content as it came, but of its page (`text` or `blob`) the
 * digest and the length alone. Undefined where it is no content that could be pinned.
 */
export function viewDefinition(uri: string, contents: unknown): Readonly<Record<string, unknown>> | undefined {
  if (!Array.isArray(contents) || contents.length > viewContentsMax) return undefined;
  const pinned = contents.map((content: unknown) => {
    if (typeof content !== 'object' || content === null || Array.isArray(content)) return undefined;
    const members = Object.entries(content).map(([member, value]: [string, unknown]) =>
      (member === 'text' || member === 'blob') && typeof value === 'string'
        ? [member, { sha256: sha256(value), length: value.length }]
        : [member, value],
    );
    return Object.fromEntries(members) as Record<string, unknown>;
  });
  return pinned.includes(undefined) ? undefined : { uri, contents: pinned };
}

const viewContentsMax = 16;
