import { canonicalJson, type ParamHeader, paramHeaderMaps, secretMembersOf } from '@sallyport/schema';
import type { PublishedDefinitionRow } from './compile-snapshot.ts';

/** What of a tool's arguments travels in headers; nothing where no approved definition says so. */
export function headersOf(
  { kind, approvedDigests }: PublishedDefinitionRow,
  bodies: ReadonlyMap<string, unknown>,
): { readonly paramHeaders?: readonly (readonly ParamHeader[])[] } {
  if (kind !== 'tool' || bodies.size === 0) return {};
  const maps = paramHeaderMaps(approvedDigests.map((digest) => bodies.get(digest)));
  return maps === undefined ? {} : { paramHeaders: maps };
}

/** What arguments of a tool must fit; nothing where no approved definition says so. */
export function schemasOf(
  { kind, approvedDigests }: PublishedDefinitionRow,
  bodies: ReadonlyMap<string, unknown>,
): { readonly inputSchemas?: readonly string[] } {
  const schemas = approvedDigests.flatMap((digest) => {
    const body = bodies.get(digest);
    const isObject = kind === 'tool' && typeof body === 'object' && body !== null && 'inputSchema' in body;
    return isObject ? canonicalJson(body.inputSchema) : [];
  });
  return schemas.length === 0 ? {} : { inputSchemas: [...new Set(schemas)].sort() };
}

/** Names of members that schemas of a tool say are secret; nothing where none is. */
export function secretsOf(
  { kind, approvedDigests }: PublishedDefinitionRow,
  bodies: ReadonlyMap<string, unknown>,
): { readonly secretMembers?: readonly string[] } {
  if (kind !== 'tool') return {};
  const schemas = approvedDigests.flatMap((digest) => {
    const body = bodies.get(digest);
    if (typeof body !== 'object' || body === null) return [];
    const { inputSchema, outputSchema } = body as { readonly inputSchema?: unknown; readonly outputSchema?: unknown };
    return [inputSchema, outputSchema];
  });
  const secretMembers = secretMembersOf(schemas);
  return secretMembers.length === 0 ? {} : { secretMembers };
}
