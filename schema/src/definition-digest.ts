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
