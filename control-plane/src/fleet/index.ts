export { type Database, openDatabase } from '../database/client.ts';
export { bumpConfigGeneration, type ConfigChange } from '../database/config-generation.ts';
export type { PublicUrls } from './compile-snapshot.ts';
export { type Fleet, type FleetOptions, startFleet } from './fleet.ts';
export { FleetVault, startNewHistory } from './fleet-keys.ts';
export { forgetUnusedClients } from '../oauth/client.service.ts';
export { revokeFamilies } from '../oauth/token-family.service.ts';
export { SnapshotPublisher } from './publish-snapshot.ts';
