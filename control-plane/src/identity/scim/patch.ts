import { type ScimPatchOperation, ScimError, scimPatch, type ScimResource } from 'scim-patch';
import { isForbiddenName, type Json, plainObject } from './scim-json.ts';
import { scimProblem } from './scim-problem.ts';
import { groupSchema } from './group-resource.ts';
import { canonicalUserAttribute, enterpriseSchema, userSchema } from './user-resource.ts';

export const patchSchema = 'urn:ietf:params:scim:api:messages:2.0:PatchOp';

const enterpriseAttributes = ['employeeNumber', 'costCenter', 'organization', 'division', 'department', 'manager'];
const operationsMax = 1000;
const pathLengthMax = 512;
const readOnly = new Set(['id', 'meta', 'groups', 'schemas']);

export interface PatchOperation {
  readonly op: 'add' | 'remove' | 'replace';
  /** Without the prefix of a core schema; undefined where the value says it all. */
  readonly path: string | undefined;
  readonly value: unknown;
}

/** The operations of a PATCH (RFC 7644 §3.5.2); `op` may be capitalised, as Entra does. */
export function parsePatch(body: Json): PatchOperation[] {
  const { schemas, Operations, operations } = plainObject(body, 'the body');
  if (!Array.isArray(schemas) || !schemas.includes(patchSchema)) {
    throw scimProblem('invalidSyntax', `schemas must name ${patchSchema}`);
  }
  const given: unknown = Operations ?? operations;
  if (!Array.isArray(given) || given.length === 0 || given.length > operationsMax) {
    throw scimProblem('invalidSyntax', `Operations must be a list of 1 to ${operationsMax}`);
  }
  return given.map((operation: unknown, index) => parseOperation(operation, `Operations[${index}]`));
}

function parseOperation(operation: unknown, name: string): PatchOperation {
  const { op, path, value } = plainObject(operation, name);
  const verb = typeof op === 'string' ? op.toLowerCase() : '';
  if (verb !== 'add' && verb !== 'remove' && verb !== 'replace') {
    throw scimProblem('invalidSyntax', `${name}.op must be add, remove or replace`);
  }
  const text = path === null || path === '' ? undefined : path;
  if (text !== undefined && (typeof text !== 'string' || text.length > pathLengthMax || isForbiddenName(text))) {
    throw scimProblem('invalidPath', `${name}.path must be a path of at most ${pathLengthMax} characters`);
  }
  if (verb === 'remove' && text === undefined) throw scimProblem('noTarget', `${name}.path is required to remove`);
  if (verb !== 'remove' && value === undefined) throw scimProblem('invalidValue', `${name}.value is required`);
  return { op: verb, path: text === undefined ? undefined : withoutCoreSchema(text), value };
}

function withoutCoreSchema(path: string): string {
  const schema = [userSchema, groupSchema].find((uri) => path.toLowerCase().startsWith(`${uri.toLowerCase()}:`));
  return schema === undefined ? path : path.slice(schema.length + 1);
}

/**
 * The resource after the operations, which is then parsed like a whole one.
 * @param resource is changed
 */
export function patchUser(resource: Record<string, unknown>, operations: readonly PatchOperation[]): Json {
  try {
    return scimPatch(resource as unknown as ScimResource, operations.flatMap(operationsForUser));
  } catch (error) {
    if (error instanceof ScimError) {
      throw scimProblem(error.scimCode === 'noTarget' ? 'noTarget' : 'invalidSyntax', error.message);
    }
    // The library fails in its own ways where a path does not fit the resource.
    if (error instanceof TypeError) throw scimProblem('invalidPath', 'a path does not fit the resource');
    throw error;
  }
}

/** One operation for each attribute that the library can reach by its path. */
function operationsForUser({ op, path, value }: PatchOperation): ScimPatchOperation[] {
  if (path === undefined) {
    const members = Object.entries(plainObject(value, 'the value of an operation without a path'));
    return members.flatMap(([key, member]) => operationsForUser({ op, path: key, value: member }));
  }
  const target = userPath(path);
  if (target === undefined) return [];
  if (target === enterpriseSchema) {
    const members = op === 'remove' ? enterpriseAttributes.map((name) => [name, undefined] as const) : undefined;
    return (members ?? Object.entries(plainObject(value, path))).flatMap(([name, member]) =>
      operationsForUser({ op, path: `${enterpriseSchema}:${name}`, value: member }),
    );
  }
  if (op === 'remove') return [{ op, path: target, value }];
  // Entra writes the id alone.
  const isManagerId = target === `${enterpriseSchema}:manager` && typeof value === 'string';
  return [{ op, path: target, value: isManagerId ? { value } : value }];
}

/** The path in the case the resource has it; undefined where it leads to what is not kept. */
function userPath(path: string): string | undefined {
  const whole = canonicalUserAttribute(path);
  // A URN has dots of its own; one attribute follows it.
  const isUrn = path.toLowerCase().startsWith('urn:');
  const first = isUrn ? path.slice(0, path.lastIndexOf(':')) : (/^[^.[]+/.exec(path)?.[0] ?? path);
  const name = whole ?? canonicalUserAttribute(first);
  if (name === undefined || name === 'password') return undefined;
  if (readOnly.has(name)) throw scimProblem('mutability', `${name} is read-only`);
  if (whole !== undefined) return name;
  // Entra compares booleans with texts.
  return `${name}${path.slice(name.length)}`.replace(
    /(\bprimary eq )"(true|false)"/i,
    (_all, head: string, truth: string) => `${head}${truth.toLowerCase()}`,
  );
}
