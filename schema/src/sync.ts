/**
 * The messages between control plane and node over one WebSocket (docs/reference/config-sync.md).
 *
 * Order: control plane `challenge` → node `hello` → control plane `welcome` (or `refused` and close) →
 * `manifest` → node `need` → `documents`… → node `ack` or `nack`. `ping`/`pong`, `watermark`, `discover` and
 * `health` flow at any time after `welcome`. Each message is one JSON text frame; the WebSocket compresses.
 */
import { z } from 'zod';
import { credentialNeedSchema, credentialOutcomeSchema } from './credential.ts';
import { apiRoutes } from './http-routes.ts';
import { definitionKinds, historySchema, manifestDeltaSchema, manifestSchema, upstreamTransports } from './snapshot.ts';

export const syncPath = apiRoutes.sync.path;
/** Largest frame either side accepts, in bytes after decompression. */
export const syncFrameBytesMax = 4 * 1024 * 1024;
/** Definitions, in canonical bytes, that a node's discovery may bring home in one frame, with room for what goes along. */
export const discoveryDefinitionsBytesMax = 3 * 1024 * 1024;
/** Documents are sent in messages of about this size, in bytes. */
export const syncChunkBytes = 256 * 1024;
export const heartbeatIntervalMs = 2_000;
/** Without an answered heartbeat for this long a node is out of contact (unconverged). */
export const contactLostAfterMs = 5_000;
/** Unseen for this long, a node leaves the denominator as gone. */
export const nodeGoneAfterMs = 60_000;

/** Credentials asked for in one message. */
export const credentialNeedsMax = 64;

const instantMs = z.number().int().nonnegative();
const hash = z.string().regex(/^[0-9a-f]{64}$/);
const problem = z.strictObject({ document: z.string(), path: z.string(), message: z.string() });
export type ConfigProblem = z.infer<typeof problem>;

/** Ed25519 public key, SPKI DER in base64. */
const publicKey = z.base64().max(256);

/**
 * What the fleet key says of a node key. A control plane restored from an older backup does not know the keys that were
 * registered since; with the certificate it can accept them, which a copy of an older key cannot have.
 */
const nodeCertificate = z.strictObject({
  issuedAt: instantMs,
  /** Ed25519 by the fleet key over `nodeCertificateText`. */
  signature: z.base64().max(256),
});
export type NodeCertificate = z.infer<typeof nodeCertificate>;

export function nodeCertificateText(nodeId: string, nodePublicKey: string, issuedAt: number): string {
  return `sallyport.nodeCertificate.v1|${nodeId}|${nodePublicKey}|${issuedAt}`;
}

const nodeLoad = z.strictObject({
  exchangesOpen: z.number().int().nonnegative(),
  requestsPerSecond: z.number().nonnegative(),
  eventLoopDelayP99Ms: z.number().nonnegative(),
  residentBytes: z.number().int().nonnegative(),
  spoolBytes: z.number().int().nonnegative(),
  spoolRecordsUnconfirmed: z.number().int().nonnegative(),
});
export type NodeLoad = z.infer<typeof nodeLoad>;

export const nodeHelloSchema = z.strictObject({
  type: z.literal('hello'),
  /** Proof of identity: a join token once, later the key registered before. Both register `publicKey` as the new key. */
  auth: z.discriminatedUnion('kind', [
    z.strictObject({ kind: z.literal('join'), token: z.string().max(256) }),
    z.strictObject({
      kind: z.literal('key'),
      nodeId: z.string().max(128),
      /** The key that signs: the one registered last. */
      publicKey,
      /** Signature over `helloSigningText` by that key. */
      signature: z.base64().max(256),
      /** Of that key, as the control plane gave it. */
      certificate: nodeCertificate,
    }),
  ]),
  publicKey,
  name: z.string().max(128),
  build: z.string().max(64),
  /** Snapshot formats this node reads. */
  formats: z.array(z.number().int()),
  labels: z.record(z.string(), z.string()),
  /** Where other nodes reach this one, or null. */
  peerUrl: z.string().nullable(),
  /** What it shows them in TLS: X.509, DER in base64. Null of builds that know no other nodes. */
  peerCertificate: z.base64().max(4096).nullable().default(null),
  /** What it runs now, or null when it has nothing. */
  applied: z.strictObject({ historyId: z.string(), revision: z.number().int().positive(), hash }).nullable(),
  /** This process's audit spool epoch and the older ones it still holds. */
  spoolEpochs: z.array(z.string()),
});

export function helloSigningText(nonce: string, newPublicKey: string): string {
  return `sallyport.hello.v1|${nonce}|${newPublicKey}`;
}

const healthObservation = z.strictObject({
  serverId: z.string(),
  state: z.enum(['healthy', 'unhealthy']),
  observedAt: instantMs,
  latencyMs: z.number().nonnegative().nullable(),
  /** A catalogue code, never the upstream's text. */
  problem: z.string().nullable(),
});
export type HealthObservation = z.infer<typeof healthObservation>;

/**
 * What discovery learnt of an upstream; `raw` objects are exactly as sent. One name may come with several digests: an
 * upstream of both eras may word it differently in each.
 */
export const discoveryResultSchema = z.strictObject({
  protocolRevisions: z.array(z.string()).min(1),
  transport: z.enum(upstreamTransports),
  serverInfo: z.record(z.string(), z.unknown()).nullable(),
  capabilities: z.record(z.string(), z.unknown()),
  instructions: z.string().nullable(),
  definitions: z.array(
    z.strictObject({
      kind: z.enum(definitionKinds),
      name: z.string(),
      digest: z.string(),
      raw: z.record(z.string(), z.unknown()),
    }),
  ),
  /** What was left out of `definitions`, each with its reason, in our words. */
  notes: z.array(z.string()),
});
export type DiscoveryResult = z.infer<typeof discoveryResultSchema>;

/** Definitions of one message about what nodes saw, and their size together in bytes of JSON. */
export const sightingsMax = 64;
export const sightingsBytesMax = 1024 * 1024;

/** Definitions that an upstream sent and nobody approved; the node withheld them. `raw` objects are exactly as sent. */
const sightingsSchema = z.strictObject({
  type: z.literal('sighted'),
  serverId: z.string().max(128),
  definitions: z
    .array(z.strictObject({ kind: z.enum(definitionKinds), raw: z.record(z.string(), z.unknown()) }))
    .min(1)
    .max(sightingsMax),
});
export type Sighting = z.infer<typeof sightingsSchema>['definitions'][number];

/** What a control plane takes besides what every one does; a node sends nothing that it would not understand. */
export const controlPlaneAccepts = ['sighted'] as const;

export const nodeMessageSchema = z.discriminatedUnion('type', [
  nodeHelloSchema,
  z.strictObject({ type: z.literal('need'), nonce: z.string(), hashes: z.array(hash) }),
  /** The node is not at the delta's base: send the whole manifest. */
  z.strictObject({ type: z.literal('needWhole'), nonce: z.string() }),
  z.strictObject({ type: z.literal('ack'), nonce: z.string(), revision: z.number().int().positive() }),
  z.strictObject({
    type: z.literal('nack'),
    nonce: z.string(),
    /** What it keeps serving. */
    appliedRevision: z.number().int().positive().nullable(),
    problems: z.array(problem).min(1),
  }),
  z.strictObject({
    type: z.literal('pong'),
    nonce: z.string(),
    load: nodeLoad,
  }),
  z.strictObject({ type: z.literal('health'), observations: z.array(healthObservation) }),
  /**
   * Worth a discovery now: the server answered like one of another protocol era than it is published with, or it says
   * that its lists changed.
   */
  z.strictObject({ type: z.literal('doubt'), serverId: z.string().max(128) }),
  /** Only to a control plane that accepts it. */
  sightingsSchema,
  z.strictObject({
    type: z.literal('discovered'),
    requestId: z.string(),
    outcome: z.discriminatedUnion('ok', [
      z.strictObject({ ok: z.literal(true), result: discoveryResultSchema }),
      z.strictObject({ ok: z.literal(false), problem: z.string() }),
    ]),
  }),
  /** Registers a fresh public key, signed by the one in force; sent well before the node key expires. */
  z.strictObject({ type: z.literal('renew'), publicKey, signature: z.base64() }),
  /** Asks for credentials toward upstreams; each is answered by its own `credential`. */
  z.strictObject({
    type: z.literal('needCredentials'),
    /** X25519, SPKI DER in base64: what they are to be sealed to. The node key signs it, over `lendingKeyText`. */
    publicKey,
    signature: z.base64().max(256),
    needs: z
      .array(z.strictObject({ requestId: z.string().max(128), need: credentialNeedSchema }))
      .min(1)
      .max(credentialNeedsMax),
  }),
  /** Something an operator must know: a refused manifest, a dropped spool, a key that does not open. */
  z.strictObject({ type: z.literal('alarm'), code: z.string(), message: z.string() }),
  /** The node is draining; it will close. */
  z.strictObject({ type: z.literal('leaving') }),
]);
export type NodeMessage = z.infer<typeof nodeMessageSchema>;

export const controlPlaneMessageSchema = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('challenge'), nonce: z.string() }),
  z.strictObject({
    type: z.literal('welcome'),
    nodeId: z.string(),
    /** When the key of this hello stops being accepted. */
    keyExpiresAt: instantMs,
    certificate: nodeCertificate,
    time: instantMs,
    fleetPublicKey: publicKey,
    history: historySchema,
    /** See `controlPlaneAccepts`. */
    accepts: z.array(z.string().max(64)).default([]),
  }),
  z.strictObject({ type: z.literal('refused'), code: z.string(), message: z.string() }),
  z.strictObject({ type: z.literal('manifest'), nonce: z.string(), whole: manifestSchema }),
  z.strictObject({ type: z.literal('manifestDelta'), nonce: z.string(), delta: manifestDeltaSchema }),
  z.strictObject({
    type: z.literal('documents'),
    nonce: z.string(),
    documents: z.array(z.strictObject({ hash, body: z.string() })),
  }),
  z.strictObject({ type: z.literal('ping'), nonce: z.string(), time: instantMs }),
  z.strictObject({ type: z.literal('renewed'), publicKey, keyExpiresAt: instantMs, certificate: nodeCertificate }),
  /** Highest contiguous sequence stored for each spool epoch of this node; only up to it may the node trim. */
  z.strictObject({
    type: z.literal('watermark'),
    epochs: z.array(
      z.strictObject({
        epoch: z.string(),
        sequence: z.number().int().nonnegative(),
        /** The end of the epoch is stored too: the node may forget it. */
        ended: z.boolean(),
      }),
    ),
  }),
  /** Every live node but this one; sent whenever that changes, to nodes that brought a certificate themselves. */
  z.strictObject({
    type: z.literal('peers'),
    peers: z.array(z.strictObject({ nodeId: z.string(), url: z.string(), certificate: z.base64() })),
  }),
  z.strictObject({
    type: z.literal('discover'),
    requestId: z.string(),
    url: z.url({ protocol: /^https?$/ }),
    /** What to ask a credential for first; absent where the server is looked at without. */
    credential: credentialNeedSchema.optional(),
  }),
  z.strictObject({ type: z.literal('credential'), requestId: z.string(), outcome: credentialOutcomeSchema }),
  /** Credentials that may not be used any more, though no document says so; null stands for all. */
  z.strictObject({
    type: z.literal('forgetCredentials'),
    serverId: z.string().nullable(),
    principalId: z.string().nullable(),
  }),
]);
export type ControlPlaneMessage = z.infer<typeof controlPlaneMessageSchema>;
