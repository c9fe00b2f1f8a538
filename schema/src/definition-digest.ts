import { canonicalJson, sha256 } from './canonical-json.ts';

/**
 * The digest that pins a definition of a server: SHA-256 over the canonical form (RFC 8785) of
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

/** What names what a server says that it is among its definitions. */
export const serverInfoName = 'serverInfo';

/** One word that names a program, such as `@acme/mcp-server`, and the number of a version: they say nothing else. */
const plainName = /^@?[A-Za-z0-9][A-Za-z0-9._/-]{0,63}$/;
const plainVersion = /^v?\d[0-9A-Za-z.+-]{0,31}$/;

function isPlain(value: unknown, form: RegExp): value is string {
  return typeof value === 'string' && form.test(value);
}

/**
 * What a server says that it is (`Implementation` of MCP: name, title, description, icons, website, whatever else there
 * is) as a definition; undefined where that is no more than a plain name. The number of a version is no part of it: it
 * says nothing, and changes with each release. Does NOT pin a plain name.
 */
export function serverInfoDefinition(
  info: Readonly<Record<string, unknown>>,
): Readonly<Record<string, unknown>> | undefined {
  const { name, version, ...more } = info;
  const hasPlainVersion = version === undefined || isPlain(version, plainVersion);
  if (hasPlainVersion && isPlain(name, plainName) && Object.keys(more).length === 0) return undefined;
  return hasPlainVersion ? { ...(name === undefined ? {} : { name }), ...more } : info;
}

/**
 * What a server may be said to be before anybody has approved more.
 * @param slug says its name where its own is no plain one
 */
export function plainServerInfo(
  { name, version }: Readonly<Record<string, unknown>>,
  slug: string,
): { readonly name: string; readonly version: string } {
  return { name: isPlain(name, plainName) ? name : slug, version: isPlain(version, plainVersion) ? version : '0' };
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
