import type { ProtocolRevision } from '@sallyport/schema';
import { objectMember, stringMember, type JsonObject } from '../mcp/envelope.ts';

/** What a client says of itself, in the words that both eras share. */
export interface ClientProfile {
  /** `sampling`, `elicitation`, `roots` as declared; nothing of what the gateway does not carry. */
  readonly capabilities: JsonObject;
  /** `{name, version, title?}`, or null where it said nothing. */
  readonly info: JsonObject | null;
}

/** Of a client's name, version and title, in characters: they travel in every token. */
const infoTextLengthMax = 128;

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
    },
    info: info === undefined ? null : keptInfo(info),
  };
}

/** The profile without what the server may not ask of clients. */
export function withoutCapabilities(client: ClientProfile, refused: readonly string[]): ClientProfile {
  const kept = Object.entries(client.capabilities).filter(([name]) => !refused.includes(name));
  return { ...client, capabilities: Object.fromEntries(kept) };
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
