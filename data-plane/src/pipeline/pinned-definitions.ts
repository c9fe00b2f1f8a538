/**
 * Definition pinning on a node: of what an upstream says of itself, only what was approved word by word is shown. The
 * rest is withheld and told to the control plane.
 */
import {
  checkDefinition,
  instructionsDefinition,
  isViewUri,
  type DefinitionKind,
  type MethodRule,
  type ServerDefinitions,
  type Sighting,
  plainServerInfo,
  serverInfoDefinition,
  sha256,
  viewDefinition,
} from '@sallyport/schema';
import { isObject, type JsonObject } from '../mcp/envelope.ts';
import type { Authorized } from './exchange.ts';

export type ListRule = NonNullable<MethodRule['list']>;

/** The kind of definition that each list holds. */
export const listedKind = {
  tools: 'tool',
  prompts: 'prompt',
  resources: 'resource',
  resourceTemplates: 'resourceTemplate',
} as const satisfies Record<ListRule['member'], DefinitionKind>;

/** Definitions remembered of one server and configuration; an upstream could send others for ever. */
const rememberedMax = 8_192;

/** Names of what was found approved, by kind and hash of the text: the next list costs one hash an element. */
const rememberedNames = new WeakMap<ServerDefinitions, Map<string, string>>();

/** What was withheld of a message; each may come several times. */
export type Withheld = Sighting[];

export type Sighted = (serverId: string, withheld: Withheld) => void;

/**
 * The name of a definition that may be shown to whom it was granted; undefined where it must be withheld.
 * @param text the object as the upstream wrote it
 * @param withheld is told of what nobody approved; not of what could not be approved at all
 */
export function approvedName(
  definitions: ServerDefinitions,
  kind: DefinitionKind,
  text: Buffer | string,
  withheld: Withheld,
): string | undefined {
  const remembered = rememberedNames.get(definitions) ?? new Map<string, string>();
  rememberedNames.set(definitions, remembered);
  const key = `${kind} ${sha256(text)}`;
  const known = remembered.get(key);
  if (known !== undefined) return known;
  const checked = checkDefinition(kind, JSON.parse(text.toString('utf8')));
  if (!checked.ok) return undefined;
  if (!definitions.isPinned(kind, checked.name, checked.raw)) {
    withheld.push({ kind, raw: { ...checked.raw } });
    return undefined;
  }
  if (remembered.size < rememberedMax) remembered.set(key, checked.name);
  return checked.name;
}

/** Whether a server's instructions may be told; what is no text, or an empty one, says nothing. */
export function areApproved(definitions: ServerDefinitions, instructions: unknown, withheld: Withheld): boolean {
  if (instructions === undefined || instructions === '') return true;
  if (typeof instructions !== 'string') return false;
  const text = JSON.stringify(instructionsDefinition(instructions));
  return approvedName(definitions, 'instructions', text, withheld) !== undefined;
}

/**
 * What a server is said to be in place of what it says; undefined where that was approved, or is no more than a plain name
 * and the number of a version.
 */
export function toldServerInfo(
  { definitions, document }: { readonly definitions: ServerDefinitions; readonly document: { readonly slug: string } },
  info: unknown,
  withheld: Withheld,
): JsonObject | undefined {
  if (!isObject(info)) return plainServerInfo({}, document.slug);
  const said = serverInfoDefinition(info);
  if (said === undefined) return undefined;
  const text = textOf(said);
  const isApproved = text !== undefined && approvedName(definitions, 'serverInfo', text, withheld) !== undefined;
  return isApproved ? undefined : plainServerInfo(info, document.slug);
}

/**
 * The URI of a view that a client was about to read and nobody approved as it is; undefined for what is no view, and for
 * one that was approved.
 * @param asked the URI that the client asked for, where it is known
 */
export function unapprovedView(
  definitions: ServerDefinitions,
  asked: string | undefined,
  { contents }: JsonObject,
  withheld: Withheld,
): string | undefined {
  const told = Array.isArray(contents)
    ? contents.map((content) => (isObject(content) ? content['uri'] : undefined))
    : [];
  const uri = [asked, ...told].find((each) => typeof each === 'string' && isViewUri(each));
  if (typeof uri !== 'string' || contents === undefined) return undefined;
  const name = asked ?? uri;
  const view = viewDefinition(name, contents);
  const isApproved = view !== undefined && approvedName(definitions, 'view', JSON.stringify(view), withheld) === name;
  return isApproved ? undefined : name;
}

/**
 * A message of the upstream's for a bridge, which puts definitions into other words before anybody else sees them:
 * without what is not approved where it answers a list.
 */
export function withoutUnapproved(message: JsonObject, { rule, routed }: Authorized, sighted: Sighted): JsonObject {
  const list = rule?.list;
  const { result } = message;
  const elements = list !== undefined && isObject(result) ? result[list.member] : undefined;
  if (list === undefined || !isObject(result) || !Array.isArray(elements)) return message;
  const { definitions, document } = routed.server;
  const withheld: Withheld = [];
  const kept = elements.filter((element: unknown) => {
    const text = isObject(element) ? textOf(element) : undefined;
    return text !== undefined && approvedName(definitions, listedKind[list.member], text, withheld) !== undefined;
  });
  if (withheld.length > 0) sighted(document.id, withheld);
  return { ...message, result: { ...result, [list.member]: kept } };
}

/** Undefined where it is nested deeper than the engine writes, which no definition is that could be approved. */
function textOf(element: JsonObject): string | undefined {
  try {
    return JSON.stringify(element);
  } catch {
    return undefined;
  }
}
