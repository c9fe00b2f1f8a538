export { type FieldAccess, fieldPermissions } from './access/field-permissions.ts';
export { type ControlPlane, type ControlPlaneDependencies, startControlPlane } from './app.ts';
export { configHelp, type ControlPlaneConfig, type ParsedConfig, parseConfig } from './config.ts';
export { startNewHistory } from './fleet/fleet-keys.ts';
export { issueOperatorKey } from './operator-key.ts';
export { printSchemaSdl } from './graphql-schema.ts';
