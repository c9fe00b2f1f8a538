import { appsExtension, type ProtocolRevision, refusedCapabilities, type ServerDocument } from '@sallyport/schema';
import { objectMember, stringMember, type JsonObject } from '../mcp/envelope.ts';

/** What a client says of itself, in the words that both eras share. */
export interface ClientProfile {
  /** `sampling`, `elicitation`, `roots`, MCP Apps as declared; nothing of what the gateway does not carry. */
  readonly capabilities: JsonObject;
  /** `{name, version, title?}`, or null where it said nothing. */
  readonly info: JsonObject | null;
}

/** Of a client's name, version and title, in characters: they travel in every token. */
const infoTextLengthMax = 128;

const shownType = /^[\x21-\x7e ]{1,64}$/;

/** The requests a server may make of a client, and the capability that each needs. */
export const clientRequests: Readonly<Record<string, 'elicitation' | 'sampling' | 'roots'>> = {
  'elicitation/create': 'elicitation',
  'sampling/createMessage': 'sampling',
  'roots/list': 'roots',
};

/**
 * The profile of a legacy client, from the `params` of its `initialize`. URL elicitation came with 2025-11-25, any
 * elicitation with 2025-06-18.
 */
export function legacyProfile(params: JsonObject, revision: ProtocolRevision): ClientProfile {
  const declared = objectMember(params, 'capabilities') ?? {};
  const profile = profileOf(declared, objectMember(params, 'clientInfo'));
  const { elicitation, ...others } = profile.capabilities;
  if (elicitation === undefined || revision < '2025-06-18') return { ...profile, capabilities: others };
  return revision === '2025-11-25' ? profile : { ...profile, capabilities: { ...others, elicitation: {} } };
}

/** The profile of a modern client, from the capabilities and the info in a request's `_meta`. */
export function profileOf(capabilities: JsonObject, info: JsonObject | undefined): ClientProfile {
  return {
    capabilities: {
      ...keptMembers(capabilities, 'sampling', ['context', 'tools']),
      ...keptMembers(capabilities, 'elicitation', ['form', 'url']),
      ...keptMembers(capabilities, 'roots', []),
      ...crossing(objectMember(capabilities, 'extensions'), keptApps),
    },
    info: info === undefined ? null : keptInfo(info),
  };
}

/** What a server is told of a client: nothing that it may not ask for, and no extension that may not pass. */
export function profileFor(
  { capabilities, info }: ClientProfile,
  { asks, extensions }: Pick<ServerDocument, 'asks' | 'extensions'>,
): ClientProfile {
  const refused = new Set(refusedCapabilities(asks));
  if (!extensions.includes(appsExtension)) refused.add('extensions');
  return {
    capabilities: Object.fromEntries(Object.entries(capabilities).filter(([name]) => !refused.has(name))),
    info,
  };
}

/**
 * What crosses eras of the extensions that a side declares: MCP Apps alone, which bring `_meta` and resources that mean
 * the same in both, and neither methods nor results of their own.
 * @param kept of its settings
 */
export function crossing(
  extensions: JsonObject | undefined,
  kept: (settings: JsonObject) => JsonObject = (settings) => settings,
): { readonly extensions?: JsonObject } {
  const apps = extensions === undefined ? undefined : objectMember(extensions, appsExtension);
  return apps === undefined ? {} : { extensions: { [appsExtension]: kept(apps) } };
}

/** Of the media types that a host shows, those that may stand in every token: few and short. */
function keptApps({ mimeTypes }: JsonObject): JsonObject {
  if (!Array.isArray(mimeTypes)) return {};
  return { mimeTypes: mimeTypes.filter((type) => typeof type === 'string' && shownType.test(type)).slice(0, 4) };
}

/** A capability with the settings that both eras know; they are empty objects themselves. */
function keptMembers(capabilities: JsonObject, name: string, settings: readonly string[]): JsonObject {
  const declared = objectMember(capabilities, name);
  if (declared === undefined) return {};
  const kept = settings.filter((setting) => objectMember(declared, setting) !== undefined);
  return { [name]: Object.fromEntries(kept.map((setting) => [setting, {}])) };
}

function keptInfo(info: JsonObject): JsonObject {
  const title = stringMember(info, 'title');
  return {
    name: (stringMember(info, 'name') ?? '').slice(0, infoTextLengthMax),
    version: (stringMember(info, 'version') ?? '').slice(0, infoTextLengthMax),
    ...(title === undefined ? {} : { title: title.slice(0, infoTextLengthMax) }),
  };
}

/** Whether the client declared that it can answer such a request of a server. */
export function canAnswer(capabilities: JsonObject, method: string, params: JsonObject): boolean {
  const needed = Object.hasOwn(clientRequests, method) ? clientRequests[method] : undefined;
  const declared = needed === undefined ? undefined : objectMember(capabilities, needed);
  if (declared === undefined) return false;
  if (needed !== 'elicitation') return true;
  // An empty capability means forms alone (2025-11-25 client/elicitation, Capabilities).
  const isForm = (stringMember(params, 'mode') ?? 'form') === 'form';
  return isForm ? 'form' in declared || !('url' in declared) : 'url' in declared;
}
