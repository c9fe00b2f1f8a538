import { findInjection } from './injection.ts';
import { type DefinitionFinding, placesOf } from './scan-definition.ts';

/** What reads like the name of a tool: words joined by underscores or hyphens, or in camel case. */
const toolName = /[A-Za-z][A-Za-z0-9]*(?:[_-][A-Za-z0-9]+)+|[a-z][a-z0-9]*(?:[A-Z][a-z0-9]+)+/g;
/** Names looked up of one definition. */
const namesMax = 500;
const nameLengthMax = 128;
const findingsMax = 20;

function nameOf(raw: Readonly<Record<string, unknown>>): string {
  return typeof raw['name'] === 'string' ? raw['name'] : '';
}

/** Texts of a definition that speak to a model, as against values and names of its own parameters. */
function spokenPlaces(raw: Readonly<Record<string, unknown>>) {
  return placesOf(raw).filter(({ text, path }) => path !== '/name' && /\s/.test(text));
}

/** What a definition may mean by names of tools, its own included; in lower case. */
export function namesSpokenOf(raw: Readonly<Record<string, unknown>>): ReadonlySet<string> {
  const names = new Set<string>(nameOf(raw) === '' ? [] : [nameOf(raw).toLowerCase().slice(0, nameLengthMax)]);
  for (const { text } of spokenPlaces(raw)) {
    for (const [name] of text.matchAll(toolName)) {
      if (names.size >= namesMax) return names;
      if (name.length <= nameLengthMax) names.add(name.toLowerCase());
    }
  }
  return names;
}

/**
 * Where a definition speaks of tools of other servers, or goes by the name of one: it may want to change how they are
 * used. Worse where the same text makes demands on the model.
 * @param foreign names of tools of other servers, in lower case, that this server has none of
 * @param taken names of tools of other servers, in lower case, whether this one has them or not
 */
export function findShadowing(
  raw: Readonly<Record<string, unknown>>,
  foreign: ReadonlySet<string>,
  taken: ReadonlySet<string>,
): DefinitionFinding[] {
  const findings: DefinitionFinding[] = [];
  const name = nameOf(raw);
  const at = (path: string, category: string, severity: DefinitionFinding['severity'], start: number, end: number) =>
    findings.push({ detector: 'shadow', category, severity, path, start, end });
  for (const { text, path } of spokenPlaces(raw)) {
    const mentions = [...text.matchAll(toolName)].filter(
      ([mention]) => foreign.has(mention.toLowerCase()) && mention.toLowerCase() !== name.toLowerCase(),
    );
    if (mentions.length === 0 || findings.length >= findingsMax) continue;
    const isDemand = findInjection(text, 'definition').length > 0;
    for (const { 0: mention, index } of mentions.slice(0, findingsMax - findings.length)) {
      at(path, 'foreignTool', isDemand ? 'high' : 'medium', index, index + mention.length);
    }
  }
  if (taken.has(name.toLowerCase())) at('/name', 'sameName', 'low', 0, name.length);
  return findings;
}
