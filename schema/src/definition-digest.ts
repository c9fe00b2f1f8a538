import { canonicalJson, sha256 } from './canonical-json.ts';

/**
 * The digest that pins a tool, prompt, resource or resource template: SHA-256 over the canonical form (RFC 8785) of
 * the whole raw object as the upstream sent it, unknown fields included, so that nothing a model may read can change
 * unnoticed.
 */
export function definitionDigest(rawDefinition: unknown): string {
  return `sha256:${sha256(canonicalJson(rawDefinition))}`;
}
