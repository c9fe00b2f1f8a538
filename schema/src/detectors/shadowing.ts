import { toolKey } from './fold-text.ts';
import { withoutHiddenText } from './hidden-text.ts';
import { findInjection } from './injection.ts';
import { type DefinitionFinding, placesOf } from './scan-definition.ts';

/** What reads like the name of a tool: words joined by underscores or hyphens, or in camel case. */
const toolName = /\p{L}[\p{L}\p{N}]*(?:[_-][\p{L}\p{N}]+)+|\p{Ll}[\p{Ll}\p{N}]*(?:\p{Lu}[\p{Ll}\p{N}]+)+/gu;
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

/** What a definition may mean by names of tools, its own included, as keys (`toolKey`). */
export function keysSpokenOf(raw: Readonly<Record<string, unknown>>): ReadonlySet<string> {
  const keys = new Set<string>(nameOf(raw) === '' ? [] : [toolKey(nameOf(raw))]);
  for (const { text } of spokenPlaces(raw)) {
    for (const [name] of withoutHiddenText(text).normalize('NFKC').matchAll(toolName)) {
      if (keys.size >= namesMax) return keys;
      if (name.length <= nameLengthMax) keys.add(toolKey(name));
    }
  }
  keys.delete('');
  return keys;
}

/**
 * Where a definition speaks of tools of other servers: it may want to change how they are used. Worse where the same text
 * makes demands on the model.
 * @param foreign keys of tools of other servers that this server has none of
 */
export function findShadowing(
  raw: Readonly<Record<string, unknown>>,
  foreign: ReadonlySet<string>,
): DefinitionFinding[] {
  const findings: DefinitionFinding[] = [];
  const own = toolKey(nameOf(raw));
  for (const { text, path } of spokenPlaces(raw)) {
    const visible = withoutHiddenText(text).normalize('NFKC');
    const mentions = [...visible.matchAll(toolName)].filter(([mention]) => {
      const key = toolKey(mention);
      return key !== own && foreign.has(key);
    });
    if (mentions.length === 0 || findings.length >= findingsMax) continue;
    const isDemand = findInjection(text, 'definition').length > 0;
    const isAsWritten = visible === text;
    for (const { 0: mention, index } of mentions.slice(0, findingsMax - findings.length)) {
      const place = isAsWritten ? { start: index, end: index + mention.length } : { start: 0, end: text.length };
      findings.push({
        detector: 'shadow',
        category: 'foreignTool',
        severity: isDemand ? 'high' : 'medium',
        path,
        ...place,
      });
    }
  }
  return findings;
}
