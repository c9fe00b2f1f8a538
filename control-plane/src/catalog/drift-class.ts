import {
  type DefinitionFinding,
  type DefinitionKind,
  findingSeverities,
  isSevere,
  suggestRisk,
  type ToolRisk,
  toolRisks,
} from '@sallyport/schema';
import { type DriftClass, driftClasses } from './catalog.tables.ts';
import { type Difference, differencesMax, differencesOf } from './definition-difference.ts';

/** One wording of a definition, with what the scan saw in it. */
export interface Wording {
  readonly raw: Readonly<Record<string, unknown>>;
  readonly findings: readonly DefinitionFinding[];
}

export interface ClassifiedDifference extends Difference {
  readonly class: DriftClass;
}

export interface Drift {
  readonly class: DriftClass;
  readonly differences: readonly ClassifiedDifference[];
}

export function worst(classes: readonly DriftClass[]): DriftClass {
  return driftClasses[Math.max(0, ...classes.map((one) => driftClasses.indexOf(one)))] ?? 'quarantine';
}

/** Longer titles say more than a title does. */
const titleLengthMax = 120;
const titlePath = /(?:^|\/)title$/;
/** Of resources; says nothing to a model that it may not learn by reading. */
const passingPath = /^\/(?:size|annotations\/(?:lastModified|priority))$/;
const schemaPath = /^\/(?:inputSchema|outputSchema)\//;

/** A value that ends one: keys for what is secret, not those to the next page. */
const secretName =
  /(?:^|[_.-])(?:pass(?:word|wd|phrase|code)?|secret|credentials?|api[_-]?key|private[_-]?key|access[_-]?key|ssh[_-]?key|auth(?:orization)?|bearer|cookie|otp|pin|token)s?(?:$|[_.-])/;
const pageName = /(?:page|next|prev|previous|continuation|sync|cursor|progress)[_.-]?token/;
const commandName =
  /(?:^|[_.-])(?:cmd|command(?:line)?|shell|script|bash|powershell|exec(?:utable)?|code|eval|sql|expression|program|argv|args)(?:$|[_.-])/;
const addressName =
  /(?:^|[_.-])(?:url|uri|href|link|endpoint|webhook|callback|host(?:name)?|domain|server|proxy|redirect|bcc|forward[_-]?to|recipient)s?(?:$|[_.-])/;

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Whether a parameter takes texts of the caller's own. */
function isFree(schema: unknown): boolean {
  if (schema === true) return true;
  if (!isObject(schema) || 'const' in schema || 'enum' in schema) return false;
  const { type } = schema;
  const types: readonly unknown[] = Array.isArray(type) ? type : [type];
  return types.some((each) => each === undefined || each === 'string' || each === 'array' || each === 'object');
}

/** What a parameter by this name would take that no one should hand over unseen. */
function isDelicate(name: string): boolean {
  const words = name
    .replace(/([a-z0-9])([A-Z])/g, '$1_$2')
    .replace(/[\s]+/g, '_')
    .toLowerCase();
  if (pageName.test(words)) return false;
  return secretName.test(words) || commandName.test(words) || addressName.test(words);
}

/** Paths of parameters that take free texts and whose names say that these are secrets, commands or addresses. */
function delicateParameters(schema: unknown): ReadonlySet<string> {
  const found = new Set<string>();
  const walk = (node: unknown, path: string): void => {
    if (Array.isArray(node)) return node.forEach((child: unknown, index) => walk(child, `${path}/${index}`));
    if (!isObject(node)) return;
    for (const [key, child] of Object.entries(node)) {
      if (key === 'properties' && isObject(child)) {
        for (const [name, property] of Object.entries(child)) {
          if (isDelicate(name) && isFree(property)) found.add(`${path}/${name}`);
          walk(property, `${path}/${name}`);
        }
      } else if (key !== 'default' && key !== 'const' && key !== 'enum' && key !== 'examples') walk(child, path);
    }
  };
  walk(schema, '');
  return found;
}

function collapsed(text: string): string {
  return text
    .normalize('NFC')
    .replace(/[ \t\r\n]+/g, ' ')
    .trim();
}

/**
 * From where the icons of a definition come: the origin, or what stands for it where there is none. Images in the definition
 * itself come from nowhere.
 */
function iconSources({ icons }: Wording['raw']): ReadonlySet<string> {
  if (!Array.isArray(icons)) return new Set();
  const sources = icons.flatMap((icon: unknown) => {
    const src = isObject(icon) ? icon['src'] : undefined;
    if (typeof src !== 'string') return [''];
    if (/^data:image\//i.test(src)) return [];
    const url = URL.canParse(src) ? new URL(src) : undefined;
    return [url === undefined || url.origin === 'null' ? src : url.origin];
  });
  return new Set(sources);
}

/**
 * By what of a definition changed and how, leaving aside what its words say.
 * @param hasNewSource of icons: whoever shows them tells somebody of it who was not told before
 */
function classOf({ path, before, after }: Difference, hasNewSource: boolean): DriftClass {
  if (typeof before === 'string' && typeof after === 'string' && collapsed(before) === collapsed(after)) return 'minor';
  if (path === '/icons' || path.startsWith('/icons/')) return hasNewSource ? 'review' : 'minor';
  if (passingPath.test(path)) return 'minor';
  const isText = (value: unknown): boolean =>
    value === undefined || (typeof value === 'string' && value.length <= titleLengthMax);
  // A parameter may be called title as well; what describes it is then no text.
  if (titlePath.test(path) && !path.endsWith('/properties/title') && isText(before) && isText(after)) return 'minor';
  if (path === '/annotations/readOnlyHint' && before === true) return 'quarantine';
  if (path === '/annotations/destructiveHint' && before === false) return 'quarantine';
  return 'review';
}

function riskRank(kind: DefinitionKind, raw: Wording['raw']): number {
  const risk: ToolRisk | null = suggestRisk(kind, raw);
  return risk === null ? -1 : toolRisks.indexOf(risk);
}

/** What the scan finds worth a look now and did not before. */
function newFindings(approved: Wording, seen: Wording): readonly DefinitionFinding[] {
  const kindOf = ({ detector, category }: DefinitionFinding): string => `${detector} ${category}`;
  const known = new Set(approved.findings.map(kindOf));
  return seen.findings.filter((finding) => !known.has(kindOf(finding)));
}

/**
 * How far a wording is from an approved one, and where. Pure; the rules are these, and the worst decides:
 *
 * - `same`: no difference that says anything.
 * - `minor`: white space, titles, icons from where some were approved, size and dates of a resource.
 * - `review`: everything else: descriptions, schemas, annotations, metadata, members that nobody knows; and whatever has
 *   a finding of medium severity that the approved one has not.
 * - `quarantine`: a new finding of high severity (hidden characters, demands on the model, …); a tool whose name and
 *   description suggest a high risk now and did not; hints taken back that promised harmlessness; a parameter that newly
 *   takes a secret, a command or an address as a free text.
 */
export function driftBetween(kind: DefinitionKind, approved: Wording, seen: Wording): Drift {
  const before = delicateParameters(approved.raw['inputSchema']);
  const opened = [...delicateParameters(seen.raw['inputSchema'])].filter((path) => !before.has(path));
  const known = iconSources(approved.raw);
  const hasNewSource = [...iconSources(seen.raw)].some((source) => !known.has(source));
  const differences = differencesOf(approved.raw, seen.raw).map((difference) => ({
    ...difference,
    class:
      opened.length > 0 && schemaPath.test(difference.path)
        ? ('quarantine' as const)
        : classOf(difference, hasNewSource),
  }));
  if (differences.length === 0) return { class: 'same', differences };
  const found = newFindings(approved, seen);
  const [wasRisk, isRisk] = [riskRank(kind, approved.raw), riskRank(kind, seen.raw)];
  const raised = isRisk > wasRisk && isRisk >= toolRisks.indexOf('high');
  const medium = findingSeverities.indexOf('medium');
  const isNoted = found.some(({ severity }) => findingSeverities.indexOf(severity) >= medium);
  // Where there are more differences than were looked at, any of them may be the worst.
  const isWorst = isSevere(found) || raised || opened.length > 0 || differences.length >= differencesMax;
  const whole: DriftClass = isWorst ? 'quarantine' : isNoted ? 'review' : 'same';
  return { class: worst([whole, ...differences.map((each) => each.class)]), differences };
}

/** The least of several drifts. */
export function nearest<T extends Drift>(drifts: readonly T[]): T | undefined {
  const rank = (drift: Drift): number => driftClasses.indexOf(drift.class);
  return drifts.toSorted((a, b) => rank(a) - rank(b) || a.differences.length - b.differences.length)[0];
}

/** The drift from whichever approved wording is nearest: each of them may be served as it is. */
export function driftFrom(kind: DefinitionKind, approved: readonly Wording[], seen: Wording): Drift | undefined {
  return nearest(approved.map((one) => driftBetween(kind, one, seen)));
}
