import { pointerParts } from '../json-pointer.ts';

/** Names whose values are secrets wherever they stand: in letters and digits alone, lower case, at the end of the name. */
const secretEndings =
  /(?:password|passwd|passphrase|passcode|passwordhash|pwd|secret|secretkey|apikey|accesskey|privatekey|signingkey|encryptionkey|sharedkey|token|credential|authorization|cookie|connectionstring)s?$/;
/** The same, as whole names: too short to mean it at the end of others. */
const secretNames = new Set(['auth', 'bearer', 'jwt', 'pin', 'otp', 'totp', 'cvv', 'cvc', 'sessionid', 'sid']);
/** The protocol's own, and counts of tokens of models. */
const plainNames = new Set(['progresstoken', 'tokens', 'maxtokens', 'inputtokens', 'outputtokens', 'totaltokens']);

/** Schemas nested deeper than this, and references followed one after the other. */
const schemaDepthMax = 64;
/** Every property of the tool is a secret: its schema cannot be read, or does not name what is. */
export const anyMember = '*';

/** Whether the name of a member says that its value is a secret, such as `clientSecret` or `X-Api-Key`. */
export function isSecretName(name: string): boolean {
  const plain = name.toLowerCase().replaceAll(/[^a-z0-9]/g, '');
  return !plainNames.has(plain) && (secretNames.has(plain) || secretEndings.test(plain));
}

/**
 * Names of the members that JSON Schemas say are secret: `writeOnly`, or `format: password`. A name counts wherever it
 * stands in a message, so nothing rests on following which branch of a schema holds. `anyMember` is among them where the
 * secret has no name, or a schema is too deep to be read. Sorted; pure.
 */
export function secretMembersOf(schemas: readonly unknown[]): string[] {
  const names = new Set<string>();
  for (const schema of schemas) new SchemaWalker(schema, names).visit(schema, null, 0);
  return [...names].sort();
}

class SchemaWalker {
  readonly #root: unknown;
  readonly #names: Set<string>;
  /** What was looked at, by the name it was reached under: references may go in circles. */
  readonly #seen = new Map<object, Set<string | null>>();

  constructor(root: unknown, names: Set<string>) {
    this.#root = root;
    this.#names = names;
  }

  visit(schema: unknown, name: string | null, depth: number): void {
    if (typeof schema !== 'object' || schema === null) return;
    const reached = this.#seen.get(schema) ?? new Set();
    if (reached.has(name)) return;
    this.#seen.set(schema, reached.add(name));
    if (depth > schemaDepthMax) {
      this.#names.add(anyMember);
      return;
    }
    if (Array.isArray(schema)) {
      for (const part of schema) this.visit(part, name, depth + 1);
      return;
    }
    const own = schema as Readonly<Record<string, unknown>>;
    if (own['writeOnly'] === true || own['format'] === 'password') this.#names.add(name ?? anyMember);
    for (const [keyword, part] of Object.entries(own)) {
      if (keyword === 'properties') this.#named(part, depth);
      else if (keyword === '$ref' || keyword === '$dynamicRef') this.#referred(part, name, depth);
      // Reached where something refers to them.
      else if (keyword !== '$defs' && keyword !== 'definitions') this.visit(part, name, depth + 1);
    }
  }

  #named(properties: unknown, depth: number): void {
    if (typeof properties !== 'object' || properties === null) return;
    for (const [name, schema] of Object.entries(properties)) this.visit(schema, name, depth + 1);
  }

  #referred(reference: unknown, name: string | null, depth: number): void {
    if (typeof reference !== 'string') return;
    const found = reference.startsWith('#') ? this.#at(reference.slice(1)) : undefined;
    // What cannot be found might say anything.
    if (found === undefined) this.#names.add(name ?? anyMember);
    else this.visit(found, name, depth + 1);
  }

  #at(pointer: string): unknown {
    let value: unknown = this.#root;
    for (const part of pointer === '' ? [] : pointerParts(decoded(pointer))) {
      const isHolder = typeof value === 'object' && value !== null && Object.hasOwn(value, part);
      if (!isHolder) return this.#anchored(pointer);
      value = (value as Readonly<Record<string, unknown>>)[part];
    }
    return pointer !== '' && !pointer.startsWith('/') ? this.#anchored(pointer) : value;
  }

  /** `$anchor` names a schema anywhere in the document (JSON Schema 2020-12, core §8.2.2). */
  #anchored(anchor: string): unknown {
    const waiting: unknown[] = [this.#root];
    for (let value = waiting.pop(); value !== undefined; value = waiting.pop()) {
      if (typeof value !== 'object' || value === null) continue;
      const { $anchor, $dynamicAnchor } = value as Readonly<Record<string, unknown>>;
      if ($anchor === anchor || $dynamicAnchor === anchor) return value;
      waiting.push(...Object.values(value).filter((part) => part !== null && part !== undefined));
    }
    return undefined;
  }
}

function decoded(fragment: string): string {
  try {
    return decodeURIComponent(fragment);
  } catch {
    return fragment;
  }
}
