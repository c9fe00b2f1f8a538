/**
 * What goes wrong between clients, gateways and servers in the field, as statements that a test holds. A test cites the
 * ids it holds at the end of its title, in brackets; `requirements.test.ts` fails on one that nobody cites.
 * `section` names a page of the specification by its path under the revision (`26` is 2026-07-28, `25` is 2025-11-25), or
 * what else the statement follows.
 */
export interface Requirement {
  readonly statement: string;
  readonly section: string;
}

export const requirements = {
  P01: {
    statement: 'MCP-Protocol-Version of a client reaches a server of its era unchanged',
    section: '26 basic/transports/streamable-http',
  },
  P02: {
    statement: 'a header that contradicts the body is -32020 over 400, and nothing reaches the server',
    section: '26 basic/transports/streamable-http §Server Validation',
  },
  P03: {
    statement: 'a name that a header has in Base64 is decoded before anything is decided by it',
    section: '26 basic/transports/streamable-http §Value Encoding',
  },
  P04: {
    statement: 'for a legacy request the body decides, whatever Mcp-* headers say',
    section: '26 basic/transports/streamable-http §Server Validation',
  },
  P05: {
    statement: 'Mcp-Param-* headers of a client reach a modern server as they came',
    section: '26 basic/transports/streamable-http §Custom Headers',
  },
  P08: {
    statement: 'a tool with an invalid x-mcp-header is left out, and no other',
    section: '26 server/tools §x-mcp-header',
  },
  P09: {
    statement: 'an x-mcp-header yields a header of parameters alone, whatever its name',
    section: '26 server/tools §x-mcp-header',
  },
  P10: { statement: 'a stream that is not offered is 405', section: '26 basic/transports/streamable-http' },
  P11: { statement: 'one rule says which Accept headers do', section: '25 basic/transports §Sending Messages' },
  P12: {
    statement: 'each event of a stream leaves when it comes, with its bytes',
    section: '26 basic/transports/streamable-http',
  },
  P13: { statement: 'a quiet stream is kept alive by comments', section: '26 basic/transports/streamable-http' },
  P14: { statement: 'an event stream is read alike wherever its bytes are cut', section: 'WHATWG HTML §9.2' },
  P15: {
    statement: 'a stream that ends without the answer gives the request an error',
    section: '26 basic/transports/streamable-http',
  },
  P16: {
    statement: 'headers of a connection are made anew, and no encoding passes that was not asked for',
    section: 'RFC 9110 §7.6.1, §8.4',
  },
  P17: {
    statement: 'a client that goes away cancels a modern call and no legacy one',
    section: '26 and 25 basic/utilities/cancellation',
  },
  P18: {
    statement: 'a page of an allowed origin may send the headers of the protocol, and reads the session',
    section: 'Fetch §3.2',
  },
  P19: {
    statement: 'a foreign Host or Origin is refused',
    section: '26 basic/transports/streamable-http §Security Warning',
  },
  P20: {
    statement: 'a body or a header block above its limit is refused, a long token fits',
    section: 'RFC 9110 §15.5.14',
  },
  P21: { statement: 'a session that is over or unknown is 404', section: '25 basic/transports §Session Management' },
  P22: {
    statement: 'a session that the server forgot is opened anew once, and the call executed once',
    section: '25 basic/transports §Session Management',
  },
  P24: {
    statement: 'requests of one session work on different nodes',
    section: '25 basic/transports §Session Management',
  },
  P25: {
    statement: 'a session id that was changed opens nothing and ends nothing',
    section: '25 basic/transports §Session Management',
  },
  P26: { statement: 'a session serves nobody else', section: '25 basic/security_best_practices §Session Hijacking' },
  P27: { statement: 'the handshake says who the server is', section: '25 basic/lifecycle' },
  P28: {
    statement: 'ids of requests in flight never meet, and come back as they were written',
    section: '26 basic §Requests',
  },
  P29: { statement: 'a cancellation works at whichever node it comes', section: '25 basic/utilities/cancellation' },
  P30: { statement: 'equal progress tokens of different clients never meet', section: '26 basic/utilities/progress' },
  P31: {
    statement: 'what a server asks comes on the stream of the call',
    section: '25 basic/transports §Sending Messages',
  },
  P32: { statement: 'a message comes on one stream alone', section: '25 basic/transports §Multiple Connections' },
  P33: {
    statement: 'a server that answers the newest handshake by anything but a passing failure is legacy',
    section: '26 basic/versioning',
  },
  P34: {
    statement: '404 with an unknown method means that, and no session or server is gone',
    section: '26 basic §Error Codes',
  },
  P35: { statement: 'a client that initializes after a discovery is served on both', section: '26 basic/versioning' },
  P36: {
    statement: '-32021 and -32022 pass to modern clients and end no session of legacy ones',
    section: '26 basic §Error Codes',
  },
  P37: { statement: 'a resultType that nobody knows is relayed', section: '26 basic §Results' },
  P38: {
    statement: 'a server that moves to another era is known as such without a restart',
    section: '26 basic/versioning',
  },
  P39: { statement: 'a handshake for an unknown revision is told the known ones', section: '26 basic/versioning' },
  P40: { statement: 'refusals that early releases of SDKs numbered otherwise pass', section: '26 basic §Error Codes' },
  P41: {
    statement: 'all pages of a list are read, and a repeated cursor ends it with an error',
    section: '26 server/utilities/pagination',
  },
  P44: { statement: 'what no specification knows survives', section: '26 basic §_meta' },
  P45: { statement: 'structured content and content both survive', section: '26 server/tools §Structured Content' },
  P46: {
    statement: 'lists that a server does not declare are not asked for, and those it lacks spoil nothing',
    section: '26 server/discover',
  },
  P47: { statement: 'a list that was filtered is private', section: '26 server/utilities/caching' },
  P49: { statement: 'a view of MCP Apps is read under the address that its tool names', section: 'MCP Apps' },
  P51: { statement: 'what is denied cannot be told from what there is not', section: '26 basic §Error Codes' },
  P52: { statement: 'no schema is fetched that a schema refers to', section: '26 basic §JSON Schema Usage' },
  P53: { statement: 'metadata of an endpoint name the URL that its clients know', section: 'RFC 9728 §3' },
  P54: { statement: 'the credential of a client reaches no server', section: '26 basic/authorization §Token Handling' },
  P55: { statement: 'who presents nothing is told where to log in', section: '26 basic/authorization' },
  P56: { statement: 'a challenge of the server is not passed on', section: '26 basic/authorization' },
  P57: {
    statement: 'a server that wants further scopes gets those that were given and these, and is not asked without end',
    section: '26 basic/authorization',
  },
  P58: { statement: 'metadata of the authorization server say what it can do and no more', section: 'RFC 8414 §2' },
  P59: { statement: 'an answer that names another issuer is refused', section: 'RFC 9207 §2.4' },
  P60: {
    statement: 'consent is remembered for the same client, address, endpoint and scopes alone',
    section: '26 basic/security_best_practices §Confused Deputy',
  },
  P61: {
    statement: 'no address inside is fetched, by whatever name or redirect',
    section: '26 basic/security_best_practices §SSRF',
  },
  P62: { statement: 'a token for one endpoint opens no other', section: 'RFC 8707 §2' },
  P63: {
    statement: 'a token that rotates is refreshed once, whoever wants it at the same time',
    section: 'RFC 9700 §4.14',
  },
  P64: {
    statement: 'a requestState that was changed, or is for others, does not go on',
    section: '26 basic/patterns/mrtr',
  },
  P65: { statement: 'answers that are missing are asked for again', section: '26 basic/patterns/mrtr' },
  P66: { statement: 'a call whose client does not come back expires', section: '26 basic/patterns/mrtr' },
  P67: { statement: 'a client is asked nothing that it did not declare', section: '26 basic/patterns/mrtr' },
  P68: {
    statement: 'a listen is acknowledged first, and all of it carries its id',
    section: '26 basic/utilities/subscriptions',
  },
  P69: {
    statement: 'a thousand listens keep no call out; what one principal has open is bounded, and beyond it is an error',
    section: '26 basic/utilities/subscriptions',
  },
  P70: {
    statement: 'a task is found under the id its client was given, and by nobody else',
    section: 'tasks extension',
  },
  P71: {
    statement: 'a call is executed once, whichever nodes it meets',
    section: '26 basic/transports/streamable-http',
  },
  P72: {
    statement: 'HTTP+SSE: clients are told an endpoint of the gateway, and one of another origin is not spoken to',
    section: '2024-11-05 basic/transports §HTTP with SSE',
  },
  P74: {
    statement: 'batches work in sessions of 2025-03-26, and are refused elsewhere',
    section: '2025-03-26 basic §Batching',
  },
} as const satisfies Readonly<Record<string, Requirement>>;

export type RequirementId = keyof typeof requirements;

/** The other pitfalls of the list that the ids number, each with the reason why nothing is required. */
export const notRequired: Readonly<Record<string, string>> = {
  P06: 'arguments are not changed on their way',
  P07: 'tools keep their names: an endpoint is one server',
  P23: 'an endpoint is one server',
  P42: 'tools keep their names: an endpoint is one server',
  P43: 'tools keep their names: an endpoint is one server',
  P48: 'nodes keep no results',
  P50: 'lists are not merged: an endpoint is one server',
  P73: 'servers over stdio are not hosted yet',
};

const citation = /\[(P\d\d)\]/g;

/** The ids in a test's title. */
export function citedIn(title: string): readonly string[] {
  return [...title.matchAll(citation)].map(([, id]) => id ?? '');
}

export function isRequirement(id: string): id is RequirementId {
  return Object.hasOwn(requirements, id);
}
