/**
 * Conditions of grants, in CEL (cel-spec; the language of Kubernetes admission policies and of cloud IAM). `when` sees
 * the principal, the server, the client and the time; `whenArguments` sees the call's target and arguments as well.
 *
 * A condition is checked when it is written, with positions, and compiled once where it is used. Its cost is bounded:
 * regular expressions are literal and go through RE2, which is linear in the text; a comprehension is not inside another,
 * and what all of them may do in one evaluation is limited (`EvaluationBudget`), beyond which the outcome is unknown.
 */
import { type ASTNode, Environment, ParseError, TypeError } from '@marcbachmann/cel-js';
import { RE2JS } from 're2js';
import { type Cidr, cidrContains, parseCidr, parseIpAddress } from './ip-address.ts';

/** Longest condition, in characters. */
export const conditionLengthMax = 2_048;
/** Longest regular expression, in characters. */
const patternLengthMax = 256;
/** Longest text that `join` puts between two others, in characters. */
const separatorLengthMax = 64;
/** Most `+` in a condition: texts are joined by it too. */
const additionsMax = 16;
const limits = { maxAstNodes: 256, maxDepth: 24, maxListElements: 100, maxMapEntries: 32, maxCallArguments: 8 };
/** Of what is run, which has wrappers that nobody wrote. */
const runningLimits = { ...limits, maxAstNodes: 1_024, maxDepth: 64 };
const comprehensions: ReadonlySet<string> = new Set(['all', 'exists', 'exists_one', 'map', 'filter']);

/** Most values in a call's arguments that a condition is evaluated over; with more, the outcome is unknown. */
export const conditionArgumentsMax = 2_000;
/** Most characters in a call's arguments that a condition is evaluated over. */
export const conditionArgumentsLengthMax = 64 * 1024;

export const conditionKinds = ['when', 'whenArguments'] as const;
export type ConditionKind = (typeof conditionKinds)[number];

/** Most steps of all comprehensions of one evaluation, as `EvaluationBudget` counts them. */
export const conditionStepsMax = 1_000_000;
/** Most characters that all regular expressions of one evaluation look at. */
export const conditionMatchedMax = 256 * 1024;

/** `unknown`: the evaluation failed, took too many steps, or was not attempted because the arguments are too large. */
export type Match = 'yes' | 'no' | 'unknown';

/** What every condition sees. */
export interface ConditionFacts {
  readonly principal: {
    readonly id: string;
    readonly kind: string;
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
  /** Characters of their JSON. */
  readonly argumentsLength: number;
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

/** The variables of a condition, and the function that the language lacks. */
function environment(kind: ConditionKind, of: typeof limits): Environment {
  const result = new Environment({ limits: of })
    .registerVariable({
      name: 'principal',
      schema: { id: 'string', kind: 'string', groups: 'list<string>' },
    })
    .registerVariable({ name: 'server', schema: { slug: 'string', labels: 'map<string, string>' } })
    .registerVariable({ name: 'client', schema: { name: 'string', version: 'string', address: 'string' } })
    .registerVariable('now', 'google.protobuf.Timestamp')
    .registerFunction('string.inNetwork(string): bool', (address: string, network: string) =>
      inNetwork(address, network),
    );
  if (kind === 'when') return result;
  return result
    .registerVariable({ name: 'target', schema: { kind: 'string', name: 'string' } })
    .registerVariable('arguments', 'map<string, dyn>');
}
/** Roots of what is the same for every element of a comprehension. */
const variables: ReadonlySet<string> = new Set(['principal', 'server', 'client', 'target', 'arguments']);

/**
 * What functions of texts become where the library's own will not do: its `matches` runs on a backtracking engine, and
 * its change of case reaches beyond ASCII, where "\u212a" (KELVIN SIGN) becomes "k".
 */
const ownFunctions: ReadonlyMap<string, string> = new Map([
  ['matches', 'matchesRe2'],
  ['lowerAscii', 'asciiToLower'],
  ['upperAscii', 'asciiToUpper'],
]);
/** What the range of a comprehension goes through, with the size of its body. */
const boundedRange = 'boundedRange';

/** What one evaluation may still do; evaluations do not interleave. */
class EvaluationBudget {
  #steps = 0;
  #characters = 0;
  #outer = 0;

  /** @param outer size of what every element may be compared with, in characters */
  begin(outer: number): void {
    this.#steps = conditionStepsMax;
    this.#characters = conditionMatchedMax;
    this.#outer = outer;
  }

  /**
   * A step is a node of the body evaluated for an element; where the body looks at more than its element, each of those
   * counts all that it could look at.
   */
  range(range: unknown, bodyNodes: number, looksOut: boolean): unknown {
    const size = Array.isArray(range) ? range.length : Object.keys(range ?? {}).length;
    this.#steps -= size * (bodyNodes + (looksOut ? this.#outer : 0));
    if (this.#steps < 0) throw new RangeError('too many steps');
    return range;
  }

  match(text: string, pattern: string): boolean {
    this.#characters -= text.length;
    if (this.#characters < 0) throw new RangeError('too much text for regular expressions');
    return compiledPattern(pattern).matcher(text).find();
  }
}
const budget = new EvaluationBudget();

const checking: Readonly<Record<ConditionKind, Environment>> = {
  when: environment('when', limits),
  whenArguments: environment('whenArguments', limits),
};

function runningEnvironment(kind: ConditionKind): Environment {
  return environment(kind, runningLimits)
    .registerFunction('string.matchesRe2(string): bool', (text: string, pattern: string) => budget.match(text, pattern))
    .registerFunction('string.asciiToLower(): string', (text: string) =>
      text.replace(/[A-Z]+/g, (letters) => letters.toLowerCase()),
    )
    .registerFunction('string.asciiToUpper(): string', (text: string) =>
      text.replace(/[a-z]+/g, (letters) => letters.toUpperCase()),
    )
    .registerFunction(`${boundedRange}(dyn, int, bool): dyn`, (range: unknown, nodes: bigint, looksOut: boolean) =>
      budget.range(range, Number(nodes), looksOut),
    );
}
const running: Readonly<Record<ConditionKind, Environment>> = {
  when: runningEnvironment('when'),
  whenArguments: runningEnvironment('whenArguments'),
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

type Evaluate = (context: Record<string, unknown>) => unknown;
type Compiled =
  | { readonly ok: true; readonly evaluate: Evaluate }
  | { readonly ok: false; readonly problem: ConditionProblem };

/** Conditions by kind and text: the same one stands in many grants, and is checked before it is compiled. */
const compiledConditions: Readonly<Record<ConditionKind, Literals<Compiled>>> = {
  when: new Literals((text) => compile('when', text)),
  whenArguments: new Literals((text) => compile('whenArguments', text)),
};

function compiledCondition(kind: ConditionKind, text: string): Compiled {
  if (text.length <= conditionLengthMax) return compiledConditions[kind].get(text);
  const message = `is longer than ${conditionLengthMax} characters`;
  return { ok: false, problem: { message, line: 1, column: 1 } };
}

function compile(kind: ConditionKind, text: string): Compiled {
  const refuse = (message: string, offset = 0): Compiled => ({ ok: false, problem: problemAt(text, offset, message) });
  if (text.trim() === '') return refuse('is empty; leave it out for no condition');
  try {
    const parsed = checking[kind].parse(text);
    const named = nameOfPrincipal(parsed.ast);
    if (named !== undefined) return refuse(principalNameProblem, named.start);
    const checked = parsed.check();
    if (!checked.valid) return refuse(checked.error?.summary ?? 'is not valid', checked.error?.range?.start);
    if (checked.type !== 'bool') return refuse(`must be true or false, but its type is ${checked.type ?? 'unknown'}`);
    const found = refusedPart(parsed.ast, false) ?? tooManyAdditions(parsed.ast);
    if (found !== undefined) return refuse(found.message, found.offset);
    const evaluate = running[kind].parse(rewritten(text, parsed.ast));
    // The rewriting goes by positions in the text; whether it found all of them is looked at, not hoped for.
    if (isUnbounded(evaluate.ast)) return refuse('must not have a comment inside a call');
    return { ok: true, evaluate };
  } catch (error) {
    if (error instanceof ParseError || error instanceof TypeError) return refuse(error.summary, error.range?.start);
    return refuse('is not a CEL expression');
  }
}

const principalNameProblem =
  'principal.name is not available: people, and directories, change names; use principal.id, or the subject of the grant';

/** Where a condition asks for the name of the principal, which it could up to decision 0043. */
function nameOfPrincipal(node: ASTNode): ASTNode | undefined {
  if (node.op === '.' && node.args[1] === 'name' && isNode(node.args[0])) {
    const [of] = node.args;
    if (of.op === 'id' && of.args === 'principal') return node;
  }
  for (const child of childrenOf(node)) {
    const found = nameOfPrincipal(child);
    if (found !== undefined) return found;
  }
  return undefined;
}

interface RefusedPart {
  readonly message: string;
  readonly offset: number;
}

/** The first part that the language allows and a condition does not. */
function refusedPart(node: ASTNode, inComprehension: boolean): RefusedPart | undefined {
  const refuse = (message: string): RefusedPart => ({ message, offset: node.start });
  let inner = inComprehension;
  if (node.op === 'rcall') {
    const [name, receiver, parameters] = node.args;
    if (name === 'bind') return refuse('cel.bind is not available');
    if (name === 'split' && !isAsItStands(receiver))
      return refuse('split() takes a text as it is, without + and join()');
    if (name === 'join' && separatorLength(parameters[0]) > separatorLengthMax) {
      return refuse(`join() takes a literal text of at most ${separatorLengthMax} characters`);
    }
    if (name === 'matches' || name === 'inNetwork') {
      const problem = literalProblem(name, parameters[0]);
      if (problem !== undefined) return refuse(problem);
    }
    if (isComprehension(node)) {
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

function isComprehension(node: ASTNode): node is ASTNode & { readonly op: 'rcall' } {
  return node.op === 'rcall' && comprehensions.has(node.args[0]) && node.args[2].length > 1;
}

/** Whether a text is no longer than what it comes from: so that splitting it makes no more than that has characters. */
function isAsItStands(node: ASTNode): boolean {
  if (node.op === '+' || (node.op === 'rcall' && node.args[0] === 'join')) return false;
  return childrenOf(node).every(isAsItStands);
}

/** @param node what `join` is given; absent, nothing stands between two texts */
function separatorLength(node: ASTNode | undefined): number {
  if (node === undefined) return 0;
  return node.op === 'value' && typeof node.args === 'string' ? node.args.length : Number.POSITIVE_INFINITY;
}

function tooManyAdditions(root: ASTNode): RefusedPart | undefined {
  const additions: ASTNode[] = [];
  const collect = (node: ASTNode): void => {
    if (node.op === '+') additions.push(node);
    childrenOf(node).forEach(collect);
  };
  collect(root);
  const beyond = additions[additionsMax];
  return beyond && { message: `has more than ${additionsMax} +`, offset: beyond.start };
}

function countNodes(node: ASTNode): number {
  return childrenOf(node).reduce((sum, child) => sum + countNodes(child), 1);
}

function looksBeyond(node: ASTNode, element: string): boolean {
  if (node.op === 'id') return node.args !== element && variables.has(node.args);
  return childrenOf(node).some((child) => looksBeyond(child, element));
}

/**
 * The text that is run: some functions are our own, and ranges of comprehensions are counted. Puts words in at the positions
 * of the tree, since a text made of the tree anew would not always mean the same.
 */
function rewritten(text: string, root: ASTNode): string {
  const insertions: { readonly at: number; readonly until: number; readonly words: string }[] = [];
  const visit = (node: ASTNode): void => {
    const own = node.op === 'rcall' ? ownFunctions.get(node.args[0]) : undefined;
    if (node.op === 'rcall' && own !== undefined) {
      const name = new RegExp(String.raw`\.\s*${node.args[0]}`, 'g');
      name.lastIndex = node.args[1].end;
      const found = name.exec(text);
      if (found !== null) insertions.push({ at: found.index, until: name.lastIndex, words: `.${own}` });
    }
    if (isComprehension(node)) {
      const [, range, [element, ...body]] = node.args;
      const name = element?.op === 'id' ? element.args : '';
      const nodes = body.reduce((sum, part) => sum + countNodes(part), 0);
      const looksOut = body.some((part) => looksBeyond(part, name));
      insertions.push({ at: range.start, until: range.start, words: `${boundedRange}(` });
      insertions.push({ at: range.end, until: range.end, words: `, ${nodes}, ${looksOut})` });
    }
    childrenOf(node).forEach(visit);
  };
  visit(root);
  let result = text;
  for (const { at, until, words } of insertions.sort((a, b) => b.at - a.at)) {
    result = result.slice(0, at) + words + result.slice(until);
  }
  return result;
}

/** Whether a function of the library's own, or a range that is not counted, is left in what is run. */
function isUnbounded(node: ASTNode): boolean {
  if (node.op === 'rcall' && ownFunctions.has(node.args[0])) return true;
  if (isComprehension(node)) {
    const range = node.args[1];
    if (range.op !== 'call' || range.args[0] !== boundedRange) return true;
  }
  return childrenOf(node).some(isUnbounded);
}

/** What is wrong with a condition, or undefined: what has no problem can be compiled. */
export function conditionProblem(kind: ConditionKind, text: string): ConditionProblem | undefined {
  const compiled = compiledCondition(kind, text);
  return compiled.ok ? undefined : compiled.problem;
}

/**
 * Compiles a condition that has no problem.
 * @throws Error for one that has
 */
export function compileCondition(kind: ConditionKind, text: string): Condition {
  const compiled = compiledCondition(kind, text);
  if (!compiled.ok) throw new Error(`condition: ${compiled.problem.message}`);
  const { evaluate } = compiled;
  return {
    evaluate: (facts, call) => {
      budget.begin(facts.client.name.length + facts.client.version.length + (call?.argumentsLength ?? 0));
      const seen = call === undefined ? {} : { target: call.target, arguments: call.arguments };
      try {
        const value: unknown = evaluate({ ...facts, ...seen });
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
