export { type Database, openDatabase } from '../database/client.ts';
export { compileSnapshot, type ConfigurationRows } from './compile-snapshot.ts';
export { type Fleet, type FleetOptions, startFleet } from './fleet.ts';
export { startNewHistory } from './fleet-keys.ts';
