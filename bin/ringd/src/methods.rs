//! The methods of the client port.

use net::grpc::{Method, MethodKind, Methods};

macro_rules! methods {
    ($($name:ident = $id:literal, $path:literal, $kind:ident;)*) => {
        /// A method of the client API.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u16)]
        pub enum MethodId { $($name = $id),* }

        impl MethodId {
            /// The method that `net` was given under this number.
            pub fn from_number(number: u16) -> Option<MethodId> {
                match number { $($id => Some(MethodId::$name),)* _ => None }
            }
        }

        const TABLE: &[Method] = &[$(Method { path: $path, id: $id, kind: MethodKind::$kind }),*];
    };
}

methods! {
    Range = 0, "/etcdserverpb.KV/Range", Unary;
    Put = 1, "/etcdserverpb.KV/Put", Unary;
    DeleteRange = 2, "/etcdserverpb.KV/DeleteRange", Unary;
    Txn = 3, "/etcdserverpb.KV/Txn", Unary;
    Compact = 4, "/etcdserverpb.KV/Compact", Unary;
    RangeStream = 5, "/etcdserverpb.KV/RangeStream", ServerStream;
    Watch = 6, "/etcdserverpb.Watch/Watch", Bidi;
    LeaseGrant = 7, "/etcdserverpb.Lease/LeaseGrant", Unary;
    LeaseRevoke = 8, "/etcdserverpb.Lease/LeaseRevoke", Unary;
    LeaseKeepAlive = 9, "/etcdserverpb.Lease/LeaseKeepAlive", Bidi;
    LeaseTimeToLive = 10, "/etcdserverpb.Lease/LeaseTimeToLive", Unary;
    LeaseLeases = 11, "/etcdserverpb.Lease/LeaseLeases", Unary;
    MemberAdd = 12, "/etcdserverpb.Cluster/MemberAdd", Unary;
    MemberRemove = 13, "/etcdserverpb.Cluster/MemberRemove", Unary;
    MemberUpdate = 14, "/etcdserverpb.Cluster/MemberUpdate", Unary;
    MemberList = 15, "/etcdserverpb.Cluster/MemberList", Unary;
    MemberPromote = 16, "/etcdserverpb.Cluster/MemberPromote", Unary;
    Alarm = 17, "/etcdserverpb.Maintenance/Alarm", Unary;
    Status = 18, "/etcdserverpb.Maintenance/Status", Unary;
    Defragment = 19, "/etcdserverpb.Maintenance/Defragment", Unary;
    Hash = 20, "/etcdserverpb.Maintenance/Hash", Unary;
    HashKv = 21, "/etcdserverpb.Maintenance/HashKV", Unary;
    Snapshot = 22, "/etcdserverpb.Maintenance/Snapshot", ServerStream;
    MoveLeader = 23, "/etcdserverpb.Maintenance/MoveLeader", Unary;
    Downgrade = 24, "/etcdserverpb.Maintenance/Downgrade", Unary;
    AuthEnable = 25, "/etcdserverpb.Auth/AuthEnable", Unary;
    AuthDisable = 26, "/etcdserverpb.Auth/AuthDisable", Unary;
    AuthStatus = 27, "/etcdserverpb.Auth/AuthStatus", Unary;
    Authenticate = 28, "/etcdserverpb.Auth/Authenticate", Unary;
    UserAdd = 29, "/etcdserverpb.Auth/UserAdd", Unary;
    UserGet = 30, "/etcdserverpb.Auth/UserGet", Unary;
    UserList = 31, "/etcdserverpb.Auth/UserList", Unary;
    UserDelete = 32, "/etcdserverpb.Auth/UserDelete", Unary;
    UserChangePassword = 33, "/etcdserverpb.Auth/UserChangePassword", Unary;
    UserGrantRole = 34, "/etcdserverpb.Auth/UserGrantRole", Unary;
    UserRevokeRole = 35, "/etcdserverpb.Auth/UserRevokeRole", Unary;
    RoleAdd = 36, "/etcdserverpb.Auth/RoleAdd", Unary;
    RoleGet = 37, "/etcdserverpb.Auth/RoleGet", Unary;
    RoleList = 38, "/etcdserverpb.Auth/RoleList", Unary;
    RoleDelete = 39, "/etcdserverpb.Auth/RoleDelete", Unary;
    RoleGrantPermission = 40, "/etcdserverpb.Auth/RoleGrantPermission", Unary;
    RoleRevokePermission = 41, "/etcdserverpb.Auth/RoleRevokePermission", Unary;
    Campaign = 42, "/v3electionpb.Election/Campaign", Unary;
    Proclaim = 43, "/v3electionpb.Election/Proclaim", Unary;
    Leader = 44, "/v3electionpb.Election/Leader", Unary;
    Observe = 45, "/v3electionpb.Election/Observe", ServerStream;
    Resign = 46, "/v3electionpb.Election/Resign", Unary;
    Lock = 47, "/v3lockpb.Lock/Lock", Unary;
    Unlock = 48, "/v3lockpb.Lock/Unlock", Unary;
    HealthCheck = 49, "/grpc.health.v1.Health/Check", Unary;
    HealthWatch = 50, "/grpc.health.v1.Health/Watch", ServerStream;
    HealthList = 51, "/grpc.health.v1.Health/List", Unary;
}

/// The table that `net` dispatches on.
pub fn table() -> Methods {
    Methods::new(TABLE)
}
