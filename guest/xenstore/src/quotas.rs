//! What one client may use. The defaults are xenstored's, where it has the same limit.

/// Limits of every unprivileged client. Limits that say so hold for privileged ones too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// Nodes that a domain may own (ENOSPC).
    pub nodes: usize,
    /// Bytes of one node: a fixed 16, eight for each permission, the value, the children's names (ENOSPC).
    pub node_size: usize,
    /// Permissions of one node (ENOSPC).
    pub permissions: usize,
    /// Watches of a client (E2BIG).
    pub watches: usize,
    /// Transactions of a client that are open at once (ENOSPC).
    pub transactions: usize,
    /// Nodes that one transaction may look at or change (ENOSPC, and the transaction cannot be committed).
    pub transaction_nodes: usize,
    /// Bytes of a path behind `/local/domain/<number>/` (EINVAL).
    pub path: usize,
    /// Names in a path (EINVAL); also of privileged clients.
    pub depth: usize,
    /// Bytes that a domain's nodes, and bytes that a client's watches, transactions and waiting events may take (ENOMEM).
    pub memory: usize,
    /// Replies that may wait for a client before its next request is left in its ring; also of privileged clients.
    pub replies: usize,
    /// Watch events that may wait for a client before further ones are merged; also of privileged clients.
    pub events: usize,
}

impl Default for Quotas {
    fn default() -> Quotas {
        Quotas {
            nodes: 1000,
            node_size: 2048,
            permissions: 5,
            watches: 128,
            transactions: 10,
            transaction_nodes: 1024,
            path: shared_abi::io::xs_wire::REL_PATH_MAX as usize,
            depth: 64,
            memory: 5 << 19,
            replies: 20,
            events: 1024,
        }
    }
}

/// What a client uses now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Nodes owned.
    pub nodes: usize,
    /// Bytes of those nodes.
    pub node_memory: usize,
    /// Watches.
    pub watches: usize,
    /// Open transactions.
    pub transactions: usize,
    /// Bytes of watches, transactions and waiting events.
    pub client_memory: usize,
    /// Replies that wait.
    pub replies: usize,
    /// Events that wait.
    pub events: usize,
}
