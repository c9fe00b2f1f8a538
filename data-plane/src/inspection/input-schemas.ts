import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js';
import { RE2JS } from 're2js';

/** Compiled schemas kept; compiling one takes milliseconds. */
const compiledMax = 256;

/** Patterns come from servers: they must take time in proportion to the text. */
const linearPattern = Object.assign((pattern: string) => RE2JS.compile(pattern) as unknown as RegExp, {
  code: 'linearPattern',
});

/** Checks arguments of tools against their input schemas (JSON Schema 2020-12). Formats are not checked. */
export class InputSchemas {
  readonly #compiled = new Map<string, ValidateFunction | null>();

  /** Whether the arguments fit any of the schemas; what cannot be compiled fits nothing. */
  fits(schemas: readonly string[], values: unknown): boolean {
    return schemas.some((schema) => this.#validator(schema)?.(values) === true);
  }

  #validator(schema: string): ValidateFunction | null {
    const known = this.#compiled.get(schema);
    if (known !== undefined) return known;
    const [oldest] = this.#compiled.keys();
    if (this.#compiled.size >= compiledMax && oldest !== undefined) this.#compiled.delete(oldest);
    const compiled = compile(schema);
    this.#compiled.set(schema, compiled);
    return compiled;
  }
}

function compile(schema: string): ValidateFunction | null {
  try {
    // One instance for each: no schema finds what another defines.
    const ajv = new Ajv2020({ strict: false, validateFormats: false, logger: false, code: { regExp: linearPattern } });
    return ajv.compile(JSON.parse(schema));
  } catch {
    return null;
  }
}
