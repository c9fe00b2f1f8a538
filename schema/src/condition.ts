/**
 * Conditions of grants, in CEL (cel-spec; the language of Kubernetes admission policies and of cloud IAM). `when` sees
 * the principal, the server, the client and the time; `whenArguments` sees the call's target and arguments as well.
 *
 * A condition is checked when it is written, with positions, and compiled once where it is used. What could make one
 * evaluation long is refused at the check: one comprehension inside another, `cel.bind`, and regular expressions that
 * are not literal; those that are go through RE2, which is linear in the text.
 */
import { type ASTNode, Environment, ParseError, serialize, TypeError } from '@marcbachmann/cel-js';
import { RE2JS } from 're2js';
import { type Cidr, cidrContains, parseCidr, parseIpAddress } from './ip-address.ts';

/** Longest condition, in characters. */
export const conditionLengthMax = 2_048;
/** Longest regular expression, in characters. */
const patternLengthMax = 256;
const limits = { maxAstNodes: 256, maxDepth: 24, maxListElements: 100, maxMapEntries: 32, maxCallArguments: 8 };
const comprehensions: ReadonlySet<string> = new Set(['all', 'exists', 'exists_one', 'map', 'filter']);

/** Most values in a call's arguments that a condition is evaluated over; with more, the outcome is unknown. */
export const conditionArgumentsMax = 2_000;
/** Most characters in a call's arguments that a condition is evaluated over. */
export const conditionArgumentsLengthMax = 64 * 1024;

export const conditionKinds = ['when', 'whenArguments'] as const;
export type ConditionKind = (typeof conditionKinds)[number];

/** `unknown`: the evaluation failed, or was not attempted because the arguments are too large. */
export type Match = 'yes' | 'no' | 'unknown';

/** What every condition sees. */
export interface ConditionFacts {
  readonly principal: {
    readonly id: string;
    readonly kind: string;
    readonly name: string;
    /** Names of the groups it belongs to. */
    readonly groups: readonly string[];
  };
  readonly server: { readonly slug: string; readonly labels: Readonly<Record<string, string>> };
  readonly client: {
    /** As the client says of itself; empty where it says nothing. No proof of anything. */
    readonly name: string;
    readonly version: string;
    /** Network address; empty where it is unknown. */
    readonly address: string;
  };
  /** The control plane's time. */
  readonly now: Date;
}

/** What `whenArguments` sees besides. */
export interface CallFacts {
  readonly target: { readonly kind: string; readonly name: string };
  /** By name; integers as bigint, so that none loses digits. */
  readonly arguments: Readonly<Record<string, unknown>>;
}

export interface ConditionProblem {
  readonly message: string;
  /** From 1; in characters. */
  readonly line: number;
  readonly column: number;
}

export interface Condition {
  evaluate(facts: ConditionFacts, call?: CallFacts): Match;
}

function environment(kind: ConditionKind): Environment {
  const result = new Environment({ limits })
    .registerVariable({
      name: 'principal',
      schema: { id: 'string', kind: 'string', name: 'string', groups: 'list<string>' },
    })
    .registerVariable({ name: 'server', schema: { slug: 'string', labels: 'map<string, string>' } })
    .registerVariable({ name: 'client', schema: { name: 'string', version: 'string', address: 'string' } })
    .registerVariable('now', 'google.protobuf.Timestamp')
    .registerFunction('string.inNetwork(string): bool', (address: string, network: string) =>
      inNetwork(address, network),
    )
    .registerFunction(`string.${linearMatches}(string): bool`, (text: string, pattern: string) =>
      compiledPattern(pattern).matcher(text).find(),
    );
  if (kind === 'when') return result;
  return result
    .registerVariable({ name: 'target', schema: { kind: 'string', name: 'string' } })
    .registerVariable('arguments', 'map<string, dyn>');
}

/** What `matches` of the language becomes: the library's own runs on a backtracking engine. */
const linearMatches = 'matchesRe2';

const environments: Readonly<Record<ConditionKind, Environment>> = {
  when: environment('when'),
  whenArguments: environment('whenArguments'),
};

/** Literals of conditions, compiled; emptied when full, since the conditions that held them may be long gone. */
class Literals<T> {
  readonly #compile: (text: string) => T;
  readonly #compiled = new Map<string, T>();
  readonly #entriesMax = 10_000;

  constructor(compile: (text: string) => T) {
    this.#compile = compile;
  }

  get(text: string): T {
    let compiled = this.#compiled.get(text);
    if (compiled === undefined) {
      compiled = this.#compile(text);
      if (this.#compiled.size >= this.#entriesMax) this.#compiled.clear();
      this.#compiled.set(text, compiled);
    }
    return compiled;
  }
}

const patterns = new Literals((text) => RE2JS.compile(text));
const networks = new Literals((text): Cidr => {
  const cidr = parseCidr(text);
  if (cidr === undefined) throw new Error(`not a network: ${text}`);
  return cidr;
});

function compiledPattern(text: string): RE2JS {
  return patterns.get(text);
}

function inNetwork(address: string, network: string): boolean {
  const parsed = parseIpAddress(address);
  if (parsed === undefined) throw new Error('the address is not known');
  return cidrContains(networks.get(network), parsed);
}

function problemAt(text: string, offset: number, message: string): ConditionProblem {
  const before = text.slice(0, offset).split('\n');
  return { message, line: before.length, column: (before.at(-1)?.length ?? 0) + 1 };
}

type Parsed = { readonly ok: true; readonly ast: ASTNode } | { readonly ok: false; readonly problem: ConditionProblem };

function parse(kind: ConditionKind, text: string): Parsed {
  const refuse = (message: string, offset = 0): Parsed => ({ ok: false, problem: problemAt(text, offset, message) });
  if (text.trim() === '') return refuse('is empty; leave it out for no condition');
  if (text.length > conditionLengthMax) return refuse(`is longer than ${conditionLengthMax} characters`);
  try {
    const parsed = environments[kind].parse(text);
    const checked = parsed.check();
    if (!checked.valid) return refuse(checked.error?.summary ?? 'is not valid', checked.error?.range?.start);
    if (checked.type !== 'bool') return refuse(`must be true or false, but its type is ${checked.type ?? 'unknown'}`);
    const found = refusedPart(parsed.ast, false);
    return found === undefined ? { ok: true, ast: parsed.ast } : refuse(found.message, found.offset);
  } catch (error) {
    if (error instanceof ParseError || error instanceof TypeError) return refuse(error.summary, error.range?.start);
    return refuse('is not a CEL expression');
  }
}

interface RefusedPart {
  readonly message: string;
  readonly offset: number;
}

/** The first part that the language allows and a condition does not. */
function refusedPart(node: ASTNode, inComprehension: boolean): RefusedPart | undefined {
  const refuse = (message: string): RefusedPart => ({ message, offset: node.start });
  let inner = inComprehension;
  if (node.op === 'call' && node.args[0] === linearMatches) return refuse(`${linearMatches} is not a function`);
  if (node.op === 'rcall') {
    const [name, , parameters] = node.args;
    if (name === 'bind') return refuse('cel.bind is not available');
    if (name === linearMatches) return refuse(`${linearMatches} is not a function`);
    if (name === 'matches' || name === 'inNetwork') {
      const problem = literalProblem(name, parameters[0]);
      if (problem !== undefined) return refuse(problem);
    }
    if (comprehensions.has(name) && parameters.length > 1) {
      if (inComprehension) return refuse(`${name}() must not be inside another comprehension`);
      inner = true;
    }
  }
  for (const child of childrenOf(node)) {
    const found = refusedPart(child, inner);
    if (found !== undefined) return found;
  }
  return undefined;
}

function literalProblem(name: 'matches' | 'inNetwork', parameter: ASTNode | undefined): string | undefined {
  const literal = parameter?.op === 'value' ? parameter.args : undefined;
  if (typeof literal !== 'string') return `${name}() takes a literal text`;
  if (name === 'inNetwork') {
    return parseCidr(literal) === undefined ? 'inNetwork() takes a network such as "10.0.0.0/8"' : undefined;
  }
  if (literal.length > patternLengthMax) return `the regular expression is longer than ${patternLengthMax} characters`;
  try {
    compiledPattern(literal);
    return undefined;
  } catch (error) {
    return `not a regular expression of RE2: ${error instanceof Error ? error.message : 'unreadable'}`;
  }
}

function isNode(value: unknown): value is ASTNode {
  return typeof value === 'object' && value !== null && 'op' in value && 'args' in value;
}

function childrenOf(node: ASTNode): readonly ASTNode[] {
  const found: ASTNode[] = [];
  const collect = (value: unknown): void => {
    if (isNode(value)) found.push(value);
    else if (Array.isArray(value)) value.forEach(collect);
  };
  collect(node.args);
  return found;
}

function useLinearMatches(node: ASTNode): void {
  if (node.op === 'rcall' && node.args[0] === 'matches') node.args[0] = linearMatches;
  childrenOf(node).forEach(useLinearMatches);
}

/** What is wrong with a condition, or undefined. */
export function conditionProblem(kind: ConditionKind, text: string): ConditionProblem | undefined {
  const parsed = parse(kind, text);
  return parsed.ok ? undefined : parsed.problem;
}

/**
 * Compiles a condition that has no problem.
 * @throws Error for one that has
 */
export function compileCondition(kind: ConditionKind, text: string): Condition {
  const parsed = parse(kind, text);
  if (!parsed.ok) throw new Error(`condition: ${parsed.problem.message}`);
  useLinearMatches(parsed.ast);
  const evaluate = environments[kind].parse(serialize(parsed.ast));
  return {
    evaluate: (facts, call) => {
      try {
        const value: unknown = evaluate({ ...facts, ...call });
        if (value === true) return 'yes';
        return value === false ? 'no' : 'unknown';
      } catch {
        // A missing argument, a text where a number is compared: the grant says what unknown means for it.
        return 'unknown';
      }
    },
  };
}

/**
 * The arguments of a call as conditions see them, from their JSON text; undefined where they are too large to evaluate
 * over, or hold a number that would be rounded. The text must have been checked for repeated keys.
 * @param text undefined for a call without arguments
 */
export function conditionArguments(text: string | undefined): Readonly<Record<string, unknown>> | undefined {
  if (text === undefined) return {};
  if (text.length > conditionArgumentsLengthMax) return undefined;
  let values = 0;
  try {
    const parsed = parseJson(text, (_key, value, { source }) => {
      values++;
      if (values > conditionArgumentsMax) throw new RangeError('too many values');
      return typeof value === 'number' ? exactNumber(value, source ?? '') : value;
    });
    return typeof parsed === 'object' && parsed !== null && !Array.isArray(parsed)
      ? (parsed as Readonly<Record<string, unknown>>)
      : undefined;
  } catch {
    return undefined;
  }
}

/** ECMAScript's JSON.parse with source text access, which the library types do not describe yet. */
const parseJson = JSON.parse as (
  text: string,
  reviver: (key: string, value: unknown, context: { readonly source?: string }) => unknown,
) => unknown;

const int64Max = 2n ** 63n - 1n;

function exactNumber(value: number, source: string): number | bigint {
  if (!/^-?\d+$/.test(source)) {
    // `9007199254740993.0` would be compared as its neighbour; infinite is not safe either.
    if (Number.isInteger(value) && !Number.isSafeInteger(value)) throw new RangeError('would be rounded');
    if (!Number.isFinite(value)) throw new RangeError('not a number that can be compared');
    return value;
  }
  const exact = BigInt(source);
  if (exact > int64Max || exact < -int64Max - 1n) throw new RangeError('beyond 64 bits');
  return exact;
}
