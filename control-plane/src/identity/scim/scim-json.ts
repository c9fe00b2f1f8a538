import { scimProblem } from './scim-problem.ts';

/** What was read from a body, and has passed `assertSafe`. */
export type Json = unknown;

const depthMax = 16;
const forbiddenNames = new Set(['__proto__', 'constructor', 'prototype']);
/** What PostgreSQL cannot store in JSON: NUL, and halves of surrogate pairs. */
const unstorable = /\\u0000|\\ud[89a-f]/i;

/** Refuses what no directory sends and what would be read as something else further on. */
export function assertSafe(value: Json): void {
  assertShape(value, 0);
  if (unstorable.test(JSON.stringify(value))) {
    throw scimProblem('invalidValue', 'texts must be well-formed Unicode without NUL');
  }
}

function assertShape(value: unknown, depth: number): void {
  if (value === null || typeof value !== 'object') return;
  if (depth >= depthMax) throw scimProblem('invalidSyntax', `the body is nested deeper than ${depthMax}`);
  for (const [key, member] of Object.entries(value)) {
    if (isForbiddenName(key)) throw scimProblem('invalidSyntax', `the name ${key} is not allowed`);
    assertShape(member, depth + 1);
  }
}

/** Names that mean something to the language itself, alone or as a part of a path. */
export function isForbiddenName(path: string): boolean {
  return path.split(/[.:[\]]/).some((part) => forbiddenNames.has(part));
}

export function plainObject(value: Json, what: string): Readonly<Record<string, unknown>> {
  if (value === null || typeof value !== 'object' || Array.isArray(value)) {
    throw scimProblem('invalidSyntax', `${what} must be a JSON object`);
  }
  return value as Readonly<Record<string, unknown>>;
}

/** A text, or undefined where there is none; the empty text is how some directories write that. */
export function textOf(value: unknown, name: string, lengthMax: number): string | undefined {
  if (value === undefined || value === null || value === '') return undefined;
  if (typeof value !== 'string') throw scimProblem('invalidValue', `${name} must be a text`);
  if (value.trim() === '') throw scimProblem('invalidValue', `${name} must not be blank`);
  if (value.length > lengthMax) throw scimProblem('invalidValue', `${name} must have at most ${lengthMax} characters`);
  return value;
}

/** A boolean, or the text of one: Entra writes "True". */
export function truthOf(value: unknown, name: string): boolean {
  if (typeof value === 'boolean') return value;
  const text = typeof value === 'string' ? value.toLowerCase() : '';
  if (text !== 'true' && text !== 'false') throw scimProblem('invalidValue', `${name} must be true or false`);
  return text === 'true';
}
