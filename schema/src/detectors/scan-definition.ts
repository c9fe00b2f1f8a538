import { RE2JS } from 're2js';
import { memberPointer } from '../json-pointer.ts';
import type { DefinitionKind, ToolRisk } from '../snapshot.ts';
import { type DetectorName, type Finding, findingSeverities, type FindingSeverity } from './finding.ts';
import { foldText } from './fold-text.ts';
import { findHiddenText } from './hidden-text.ts';
import { findInjection } from './injection.ts';
import { findLinks } from './links.ts';
import { findSecrets } from './secrets.ts';

/** Raised when the same definition may be judged otherwise than before: what was scanned by another is scanned anew. */
export const definitionScanVersion = 3;

/** `schema`, `name`, `icon` and `app` are about what a definition is made of, not about its words. */
export type DefinitionDetector = DetectorName | 'schema' | 'name' | 'shadow' | 'icon' | 'app' | 'scan';

/** Something seen in a definition; high and critical ones keep it from being served until a person approves it. */
export interface DefinitionFinding {
  readonly detector: DefinitionDetector;
  readonly category: string;
  readonly severity: FindingSeverity;
  /** JSON pointer (RFC 6901) of the string it is in, or of the member whose name it is; empty for the whole. */
  readonly path: string;
  /** UTF-16 code units in that string. */
  readonly start: number;
  readonly end: number;
}

/** More than a person would read; the worst come first. */
const findingsMax = 100;

interface Place {
  readonly text: string;
  readonly path: string;
  /** The name of the member, or of an array's. */
  readonly member: string;
  /** The name of a member of `patternProperties`. */
  readonly isPattern?: boolean;
}

/** Every string of a definition, names of members too, in order. The caller has bounded depth and size. */
export function placesOf(raw: Readonly<Record<string, unknown>>): Place[] {
  const places: Place[] = [];
  const walk = (value: unknown, path: string, member: string): void => {
    if (typeof value === 'string') {
      places.push({ text: value, path, member });
    } else if (Array.isArray(value)) {
      for (const [index, child] of value.entries()) walk(child, `${path}/${index}`, member);
    } else if (typeof value === 'object' && value !== null) {
      for (const [key, child] of Object.entries(value)) {
        const at = memberPointer(path, key);
        places.push({ text: key, path: at, member: '', isPattern: member === 'patternProperties' });
        walk(child, at, key);
      }
    }
  };
  walk(raw, '', '');
  return places;
}

function at(place: Place, finding: Finding): DefinitionFinding {
  return { ...finding, path: place.path };
}

function whole(
  detector: DefinitionDetector,
  category: string,
  severity: FindingSeverity,
  place: Place,
): DefinitionFinding {
  return { detector, category, severity, path: place.path, start: 0, end: place.text.length };
}

/** Nobody has a good reason to hide something in a definition. */
function hiddenIn(place: Place): DefinitionFinding[] {
  return findHiddenText(place.text).map((finding) => {
    const isMild = finding.severity === 'low' || finding.severity === 'medium';
    const isLineEnd = finding.category === 'controlCharacter' && place.text.charCodeAt(finding.start) === 0x0c;
    return at(
      place,
      isMild && !isLineEnd && finding.category !== 'softHyphen' ? { ...finding, severity: 'high' } : finding,
    );
  });
}

/** Words are also joined by underscores or hyphens, in names and values. */
function wordsOf(text: string): string {
  return text.includes(' ') ? text : text.replace(/[_-]/g, ' ');
}

function findingsAt(place: Place): DefinitionFinding[] {
  const findings = hiddenIn(place);
  findings.push(...findInjection(wordsOf(place.text), 'definition').map((finding) => at(place, finding)));
  findings.push(...findSecrets(place.text).map((finding) => at(place, { ...finding, severity: 'medium' })));
  findings.push(...findLinks(place.text).map((finding) => at(place, finding)));
  if (place.member === '$ref' || place.member === '$dynamicRef') {
    if (!place.text.startsWith('#')) findings.push(whole('schema', 'remoteReference', 'medium', place));
  }
  if (place.member === 'pattern' || place.isPattern) {
    if (!isLinear(place.text)) findings.push(whole('schema', 'pattern', 'low', place));
    if (hasNestedRepetition(place.text)) findings.push(whole('schema', 'slowPattern', 'medium', place));
  }
  return findings;
}

/** Whether an expression is of the kind that no text can make slow. */
function isLinear(pattern: string): boolean {
  try {
    RE2JS.compile(pattern);
    return true;
  } catch {
    return false;
  }
}

/**
 * Whether a group that repeats without bound is itself repeated without bound, such as `(a+)+`: engines that backtrack,
 * as most validators of clients do, may take for ever. A guess: says nothing of alternatives that overlap.
 */
function hasNestedRepetition(pattern: string): boolean {
  const text = pattern.replace(/\\./g, 'x').replace(/\[[^\]]*\]/g, 'x');
  const open: boolean[] = [];
  let inner = false;
  for (let at = 0; at < text.length; at++) {
    const isUnbounded = /^(?:[*+]|\{\d*,\})/.test(text.slice(at, at + 12));
    if (text[at] === '(') {
      open.push(inner);
      inner = false;
    } else if (text[at] === ')') {
      const repeats: boolean = inner;
      inner = (open.pop() ?? false) || repeats;
      if (repeats && /^(?:[*+]|\{\d*,\})/.test(text.slice(at + 1, at + 13))) return true;
    } else if (isUnbounded) inner = true;
  }
  return false;
}

function member(value: unknown, key: string): unknown {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && Object.hasOwn(value, key)
    ? (value as Record<string, unknown>)[key]
    : undefined;
}

function strings(value: unknown): string[] {
  if (typeof value === 'string') return [value];
  if (Array.isArray(value)) return value.flatMap(strings);
  return typeof value === 'object' && value !== null ? Object.values(value).flatMap(strings) : [];
}

/** An icon in the definition itself, in characters. */
const iconDataLengthMax = 64 * 1024;
/** A machine rather than a name: whoever shows the icon would ask it. */
const addressHost =
  /^https:\/\/(?:\[|\d{1,3}(?:\.\d{1,3}){3}(?:[:/]|$)|localhost(?:[:/]|$)|[^/:]+\.(?:local|internal)(?:[:/]|$))/i;

/** Icons are images of known kinds, over https or inline (2025-11-25 and later, icons §security). */
function iconFindings(raw: Readonly<Record<string, unknown>>): DefinitionFinding[] {
  const icons = raw['icons'];
  if (!Array.isArray(icons)) return [];
  return icons.flatMap((icon: unknown, index) => {
    const source = member(icon, 'src');
    const place = { text: typeof source === 'string' ? source : '', path: `/icons/${index}/src`, member: 'src' };
    if (/^https:\/\/[^/@\s]+(?:\/\S*)?$/i.test(place.text)) {
      return addressHost.test(place.text) ? [whole('icon', 'addressIcon', 'medium', place)] : [];
    }
    if (place.text.length > iconDataLengthMax) return [whole('icon', 'largeIcon', 'medium', place)];
    if (/^data:image\/(?:png|jpeg|webp|gif);base64,[A-Za-z0-9+/=]*$/.test(place.text)) return [];
    return [
      whole(
        'icon',
        /^http:/i.test(place.text) ? 'insecureIcon' : 'activeIcon',
        /^http:/i.test(place.text) ? 'medium' : 'high',
        place,
      ),
    ];
  });
}

/** One host a page of an app may reach: https or wss, no wildcard but a leading label, no address, no keyword. */
const appHost = /^(?:https:\/\/|wss:\/\/)?(?:\*\.)?[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?\.[a-z]{2,63}(?::\d{1,5})?\/?$/i;

/** What an app of MCP Apps asks for: its page is of the same server, and what it may reach is named. */
function appFindings(raw: Readonly<Record<string, unknown>>): DefinitionFinding[] {
  const contents = Array.isArray(raw['contents']) ? raw['contents'] : [];
  const findings: DefinitionFinding[] = contents.flatMap((content: unknown, index) =>
    policyFindings(member(member(content, '_meta'), 'ui'), `/contents/${index}/_meta/ui`),
  );
  const ui = member(raw['_meta'], 'ui');
  for (const uri of [member(ui, 'resourceUri'), member(raw['_meta'], 'ui/resourceUri')]) {
    const place = { text: typeof uri === 'string' ? uri : '', path: '/_meta/ui/resourceUri', member: '' };
    if (uri !== undefined && !place.text.startsWith('ui://')) findings.push(whole('app', 'foreignPage', 'high', place));
  }
  return [...findings, ...policyFindings(ui, '/_meta/ui')];
}

/** What a page may do and reach, as a tool or the page itself says it. */
function policyFindings(ui: unknown, path: string): DefinitionFinding[] {
  const permissions = member(ui, 'permissions');
  const asked = typeof permissions === 'object' && permissions !== null ? Object.keys(permissions) : [];
  const hosts = strings(member(ui, 'csp')).filter((host) => !appHost.test(host));
  return [
    ...asked.map((text) => whole('app', 'permission', 'medium', { text, path: `${path}/permissions`, member: '' })),
    ...hosts.map((text) => whole('app', 'openPolicy', 'high', { text, path: `${path}/csp`, member: '' })),
  ];
}

/** A name that reads like one of other letters passes for it. */
function nameFindings(raw: Readonly<Record<string, unknown>>): DefinitionFinding[] {
  const { name } = raw;
  if (typeof name !== 'string') return [];
  const folded = foldText(name);
  // oxlint-disable-next-line no-control-regex
  const isConfusable = folded !== name.toLowerCase() && /^[\u0000-\u007f]*$/.test(folded);
  return isConfusable ? [whole('name', 'confusableName', 'high', { text: name, path: '/name', member: 'name' })] : [];
}

/** A demand may be spread over several strings of which none says it alone. */
function spreadFindings(places: readonly Place[], found: readonly DefinitionFinding[]): DefinitionFinding[] {
  if (found.some(({ detector, severity }) => detector === 'injection' && severity !== 'low')) return [];
  const text = places.map((place) => wordsOf(place.text)).join(' ');
  return findInjection(text, 'definition')
    .filter(({ severity }) => severity === 'high' || severity === 'critical')
    .map((finding) => ({ ...finding, severity: 'medium', path: '', start: 0, end: 0 }));
}

/**
 * What is suspicious about a definition as its server sent it, the worst first. A pure function, to be run once for each
 * digest. Looks at every string, names of members included. `raw` must have passed `checkDefinition`.
 */
export function scanDefinition(raw: Readonly<Record<string, unknown>>): DefinitionFinding[] {
  const places = placesOf(raw);
  const findings = [...places.flatMap(findingsAt), ...iconFindings(raw), ...appFindings(raw), ...nameFindings(raw)];
  findings.push(...spreadFindings(places, findings));
  const rank = ({ severity }: DefinitionFinding): number => findingSeverities.indexOf(severity);
  return findings.sort((a, b) => rank(b) - rank(a)).slice(0, findingsMax);
}

/** Whether a person has to approve a definition with these findings before it is served. */
export function isSevere(findings: readonly DefinitionFinding[]): boolean {
  return findings.some(({ severity }) => severity === 'high' || severity === 'critical');
}

/** What a tool can do, told by the words of its name, then of the first sentence about it. */
const capabilities: readonly (readonly [ToolRisk, RegExp])[] = [
  [
    'critical',
    /\b(?:exec|eval|shell|bash|powershell|terminal|subprocess|sudo|ssh)\b|\b(?:execute|run|evaluate|invoke)s? (?:\w+ ){0,3}(?:commands?|code|scripts?|sql|shell|statements?|programs?|python|javascript|binary)\b/,
  ],
  [
    'critical',
    /\b(?:transfer|wire|withdraw|pay|refund|purchase|buy|charge|trade)s? (?:\w+ ){0,4}(?:money|funds?|amounts?|payments?|accounts?|orders?|customers?|cards?|invoices?|stocks?|shares?|crypto|tokens?|coins?)\b|\b(?:make|create|send|process|initiate)s? (?:\w+ ){0,2}(?:payments?|transfers?|refunds?|payouts?|purchases?)\b/,
  ],
  [
    'high',
    /\b(?:delete|drop|destroy|purge|wipe|truncate|erase|uninstall|terminate|shutdown|format|factory reset|force push)(?:s|es|ed)?\b/,
  ],
  [
    'high',
    /\b(?:grant|revoke|assign|elevate|impersonate|reset|rotate|create|change|update|disable|add|remove|modify)s? (?:\w+ ){0,3}(?:permissions?|roles?|privileges?|passwords?|credentials?|access|api keys?|secrets?|users?|admins?|polic(?:y|ies)|firewall rules?|collaborators?|members?)\b/,
  ],
  [
    'high',
    /\b(?:deploy|publish|release|merge|restart|reboot|install|kill|stop)s? (?:\w+ ){0,3}(?:production|services?|packages?|instances?|servers?|clusters?|pull requests?|branch(?:es)?|process(?:es)?|machines?|software|extensions?)\b/,
  ],
  [
    'medium',
    /\b(?:send|post|publish|tweet|e-?mail|sms|upload|share|invite|notify|write|overwrite|create|update|edit|move|rename|modify|insert|append|set|add|remove|cancel|close|archive|schedule|start|stop|enable|disable|submit|upsert|patch|put|save)s?\b/,
  ],
];

/** A risk to begin with, for an administrator to confirm; what a server says of its own tools is not asked. */
export function suggestRisk(kind: DefinitionKind, raw: Readonly<Record<string, unknown>>): ToolRisk | null {
  if (kind !== 'tool') return null;
  const name = typeof raw['name'] === 'string' ? raw['name'] : '';
  const description = typeof raw['description'] === 'string' ? raw['description'] : '';
  const words = name
    .replace(/([a-z0-9])([A-Z])/g, '$1 $2')
    .replace(/[_.-]/g, ' ')
    .toLowerCase();
  const first = (/^[^]{0,400}?(?:[.\n]|$)/.exec(description)?.[0] ?? '').toLowerCase();
  for (const [risk, pattern] of capabilities) {
    if (pattern.test(words) || (risk !== 'medium' && pattern.test(first))) return risk;
  }
  return capabilities.some(([, pattern]) => pattern.test(first)) ? 'medium' : 'low';
}
